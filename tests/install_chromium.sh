#!/bin/sh
# Finds Chromium, or installs Debian's; without root, says what to do and lets the browser tests skip.
for name in chromium chromium-browser google-chrome; do
    command -v "$name" >/dev/null && exit 0
done
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "Installing Chromium for the tests of the web pages"
    (apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium) >/dev/null 2>&1 && exit 0
fi
echo "No Chromium: the browser tests will be skipped. Install it (Debian: apt-get install chromium)."
