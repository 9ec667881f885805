-- Trials say when something proposed them in place of their study's search.

ALTER TABLE tuner.trials ADD COLUMN search_note text NOT NULL DEFAULT '';
