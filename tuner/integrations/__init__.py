"""Studies in other libraries' scripts; each module needs the library that it is named after."""
