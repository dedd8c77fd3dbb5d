"""A run, or several, as one self-contained HTML page; knows only the records.

`page` makes the text, `write` the file. Layout and style are in `templates/`; every module beside this one
turns records into the words, rows and places of one part of the page.
"""

from rarefy.report.html import page, write

__all__ = ["page", "write"]
