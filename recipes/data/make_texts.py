"""Makes book.txt and heldout.txt from two novels by Jane Austen.

    apt-get download r-cran-janeaustenr && dpkg-deb -x r-cran-janeaustenr_*.deb austen
    pip install rdata==1.1.0
    python recipes/data/make_texts.py austen

The package holds the novels line by line in R's own format. Here the lines of a paragraph become
one line, paragraphs stand a blank line apart, and title pages, chapter headings, volume marks and
the underscores of italics go.
"""
import gzip
import re
import sys
import warnings
import zlib
from pathlib import Path

import rdata

HERE = Path(__file__).parent
HEADING = re.compile(r"chapter [0-9ivxl]+", re.IGNORECASE)
MARK = re.compile(r"\(End of volume one\.\)|\[At this point .*\]|Finis|THE END", re.IGNORECASE)


def unserialize(data):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # R's databases carry no file header
        return rdata.conversion.convert(rdata.parser.parse_data(data))


def novel(package, name):
    """The lines of one novel. An entry of the database is a 4-byte length, then zlib."""
    data = Path(package) / "usr/lib/R/site-library/janeaustenr/data"
    index = unserialize(gzip.decompress((data / "Rdata.rdx").read_bytes()))["variables"]
    offset, length = next(place for key, place in index.items() if str(key) == name)
    database = (data / "Rdata.rdb").read_bytes()
    return [str(line) for line in unserialize(zlib.decompress(database[offset + 4:offset + length]))]


def chapters(lines):
    """Chapters as lists of paragraphs; what stands before the first heading is dropped."""
    found = []
    paragraph = []
    for line in [*lines, ""]:
        text = " ".join(line.replace("_", "").split())
        if HEADING.fullmatch(text):
            found.append([])
        elif text:
            paragraph.append(text)
        elif paragraph:
            joined = " ".join(paragraph)
            if found and not MARK.fullmatch(joined):
                found[-1].append(joined)
            paragraph = []
    return found


def write(name, chosen):
    text = "\n\n".join("\n\n".join(chapter) for chapter in chosen) + "\n"
    (HERE / name).write_text(text, encoding="utf-8", newline="\n")
    print(name, len(chosen), "chapters,", len(text.encode()), "bytes")


def main():
    package = sys.argv[1]
    write("book.txt", chapters(novel(package, "persuasion"))[:19])
    write("heldout.txt", chapters(novel(package, "sensesensibility"))[:7])


main()
