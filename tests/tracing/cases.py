"""What W3C Trace Context, levels 1 and 2, and the W3C's harness for it say of headers, as tables."""

from __future__ import annotations

from typing import NamedTuple

Lines = list[tuple[str, str]]

TRACE = "12345678901234567890123456789012"
PARENT = "1234567890123456"
GOOD = f"00-{TRACE}-{PARENT}-01"


class Trace(NamedTuple):
    """What a traceparent says once it is parsed."""

    trace_id: str
    parent_id: str
    flags: str


def _line(value: str, name: str = "traceparent") -> Lines:
    return [(name, value)]


HERE = Trace(TRACE, PARENT, "01")

# -- traceparent: the header lines, and what they mean; None: nothing, a new trace is begun --------

TRACEPARENT: dict[str, tuple[Lines, Trace | None]] = {
    "none": ([], None),
    "empty": (_line(""), None),
    "good": (_line(GOOD), HERE),
    "the specification's, of the overview": (
        _line("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        Trace("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", "01"),
    ),
    "the specification's, second hop": (
        _line("00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01"),
        Trace("0af7651916cd43dd8448eb211c80319c", "00f067aa0ba902b7", "01"),
    ),
    "the specification's, sampled": (
        _line("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        Trace("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", "01"),
    ),
    "the specification's, not sampled": (
        _line("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"),
        Trace("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", "00"),
    ),
    # Its name
    "twice, different": ([*_line(f"00-{TRACE[:-1]}1-{PARENT}-01"), *_line(GOOD)], None),
    "twice, the same": ([*_line(GOOD), *_line(GOOD)], None),
    "another name: a hyphen": (_line(GOOD, "trace-parent"), None),
    "another name: a dot": (_line(GOOD, "trace.parent"), None),
    "name in capitals": (_line(GOOD, "TRACEPARENT"), HERE),
    "name in title case": (_line(GOOD, "TraceParent"), HERE),
    "name in mixed case": (_line(GOOD, "TrAcEpArEnT"), HERE),
    # White space around the value is no part of it
    "space before": ([("traceparent", " " + GOOD)], HERE),
    "tab before": (_line("\t" + GOOD), HERE),
    "space after": (_line(GOOD + " "), HERE),
    "tab after": (_line(GOOD + "\t"), HERE),
    "white space on both sides": (_line(f"\t {GOOD} \t"), HERE),
    "white space within": (_line(GOOD.replace("-", " -", 1)), None),
    # Version
    "version 00, a character more": (_line(GOOD + "."), None),
    "version 00, a field more": (_line(GOOD + "-what-the-future-will-be-like"), None),
    "version 00, a hyphen more": (_line(GOOD + "-"), None),
    "a later version": (_line("cc" + GOOD[2:]), HERE),
    "a later version, a field more": (_line("cc" + GOOD[2:] + "-what-the-future-will-be-like"), HERE),
    "a later version, a hyphen more": (_line("cc" + GOOD[2:] + "-"), HERE),
    "a later version, something else more": (_line("cc" + GOOD[2:] + ".what-the-future-will-be-like"), None),
    "a later version, flags too long": (_line("cc" + GOOD[2:] + "1"), None),
    "a later version, too short": (_line("cc" + GOOD[2:-1]), None),
    "a later version, trace id of zeros": (_line(f"cc-{'0' * 32}-{PARENT}-01"), None),
    "a later version, parent id of zeros": (_line(f"cc-{TRACE}-{'0' * 16}-01"), None),
    "a later version, not hex": (_line(f"cc-{TRACE[:-1]}x-{PARENT}-01"), None),
    "version 01": (_line("01" + GOOD[2:]), HERE),
    "version fe": (_line("fe" + GOOD[2:]), HERE),
    "version ff": (_line("ff" + GOOD[2:]), None),
    "version in capitals": (_line("CC" + GOOD[2:]), None),
    "version: not hex, first": (_line(".0" + GOOD[2:]), None),
    "version: not hex, second": (_line("0." + GOOD[2:]), None),
    "version: three characters": (_line("0" + GOOD), None),
    "version: four characters": (_line("00" + GOOD), None),
    "version: one character": (_line(GOOD[1:]), None),
    "version: none": (_line(GOOD[2:]), None),
    # Trace id
    "trace id of zeros": (_line(f"00-{'0' * 32}-{PARENT}-01"), None),
    "trace id: not hex, first": (_line(f"00-.{TRACE[1:]}-{PARENT}-01"), None),
    "trace id: not hex, last": (_line(f"00-{TRACE[:-1]}.-{PARENT}-01"), None),
    "trace id: capitals": (_line(f"00-{TRACE[:-1]}A-{PARENT}-01"), None),
    "trace id too long": (_line(f"00-{TRACE}3-{PARENT}-01"), None),
    "trace id too short": (_line(f"00-{TRACE[:-1]}-{PARENT}-01"), None),
    "trace id: none": (_line(f"00--{PARENT}-01"), None),
    # Parent id
    "parent id of zeros": (_line(f"00-{TRACE}-{'0' * 16}-01"), None),
    "parent id: not hex, first": (_line(f"00-{TRACE}-.{PARENT[1:]}-01"), None),
    "parent id: not hex, last": (_line(f"00-{TRACE}-{PARENT[:-1]}.-01"), None),
    "parent id: capitals": (_line(f"00-{TRACE}-{PARENT[:-1]}B-01"), None),
    "parent id too long": (_line(f"00-{TRACE}-{PARENT}7-01"), None),
    "parent id too short": (_line(f"00-{TRACE}-{PARENT[:-1]}-01"), None),
    # Flags: the two that level 2 knows are kept as they are, all others are zero
    "flags: not hex, first": (_line(GOOD[:-2] + ".0"), None),
    "flags: not hex, second": (_line(GOOD[:-2] + "0."), None),
    "flags: capitals": (_line(GOOD[:-2] + "0A"), None),
    "flags too long": (_line(GOOD[:-2] + "001"), None),
    "flags too short": (_line(GOOD[:-2] + "1"), None),
    "flags: none set": (_line(GOOD[:-2] + "00"), HERE._replace(flags="00")),
    "flags: random": (_line(GOOD[:-2] + "02"), HERE._replace(flags="02")),
    "flags: sampled and random": (_line(GOOD[:-2] + "03"), HERE._replace(flags="03")),
    "flags: sampled and an unknown one": (_line(GOOD[:-2] + "09"), HERE),
    "flags: an unknown one": (_line(GOOD[:-2] + "04"), HERE._replace(flags="00")),
    "flags: all set": (_line(GOOD[:-2] + "ff"), HERE._replace(flags="03")),
    # What is no such thing at all
    "separated by something else": (_line(GOOD.replace("-", "_")), None),
    "beyond ASCII": (_line(GOOD[:-1] + "\u00e9"), None),
    "a word": (_line("none"), None),
    "long": (_line("0" * 20_000), None),
}

# -- tracestate: the header lines, and the list that is passed on; "": none is -----------------------

KEY = "abcdefghijklmnopqrstuvwxyz0123456789_-*/"
VALUE = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) not in ",=")
MANY = [f"bar{number:02}={number:02}" for number in range(1, 34)]


def _states(*values: str) -> Lines:
    return [("tracestate", value) for value in values]


TRACESTATE: dict[str, tuple[Lines, str]] = {
    "none": ([], ""),
    "one member": (_states("foo=1"), "foo=1"),
    "two members": (_states("foo=1,bar=2"), "foo=1,bar=2"),
    "the specification's, of the overview": (_states("congo=t61rcWkgMzE"), "congo=t61rcWkgMzE"),
    "the specification's, two vendors": (
        _states("rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"),
        "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE",
    ),
    "the specification's, third hop": (
        _states("congo=ucfJifl5GOE,rojo=00f067aa0ba902b7"),
        "congo=ucfJifl5GOE,rojo=00f067aa0ba902b7",
    ),
    "the specification's, of a list": (
        _states("vendorname1=opaqueValue1,vendorname2=opaqueValue2"),
        "vendorname1=opaqueValue1,vendorname2=opaqueValue2",
    ),
    "the specification's, a tenant": (_states("fw529a3039@dt=FfAAAA,rojo=1"), "fw529a3039@dt=FfAAAA,rojo=1"),
    # Its name
    "another name: a hyphen": ([("trace-state", "foo=1")], ""),
    "another name: a dot": ([("trace.state", "foo=1")], ""),
    "name in capitals": ([("TRACESTATE", "foo=1")], "foo=1"),
    "name in title case": ([("TraceState", "foo=1")], "foo=1"),
    "name in mixed case": ([("TrAcEsTaTe", "foo=1")], "foo=1"),
    # Several lines are one list
    "three lines": (_states("foo=1,bar=2", "rojo=1,congo=2", "baz=3"), "foo=1,bar=2,rojo=1,congo=2,baz=3"),
    "the specification's, in two lines": (
        _states("rojo=00f067aa0ba902b7", "congo=t61rcWkgMzE"),
        "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE",
    ),
    "empty": (_states(""), ""),
    "an empty line after": (_states("foo=1", ""), "foo=1"),
    "an empty line before": (_states("", "foo=1"), "foo=1"),
    "empty members": (_states("foo=1,,bar=2, ,"), "foo=1,bar=2"),
    # White space around members is no part of them
    "spaces around commas": (_states("foo=1 \t , \t bar=2, \t baz=3"), "foo=1,bar=2,baz=3"),
    "tabs around commas": (_states("foo=1\t \t,\t \tbar=2,\t \tbaz=3"), "foo=1,bar=2,baz=3"),
    "space before": (_states(" foo=1"), "foo=1"),
    "tab before": (_states("\tfoo=1"), "foo=1"),
    "space after": (_states("foo=1 "), "foo=1"),
    "tab after": (_states("foo=1\t"), "foo=1"),
    "white space on both sides": (_states("\t foo=1 \t"), "foo=1"),
    # All characters there are
    "all of a key": (_states(f"{KEY}={VALUE}"), f"{KEY}={VALUE}"),
    "all of a key with a vendor": (_states(f"{KEY}@a-z0-9_-*/={VALUE}"), f"{KEY}@a-z0-9_-*/={VALUE}"),
    "a digit first (level 2)": (_states("1a=1,0=2"), "1a=1,0=2"),
    # One bad member loses them all
    "a key twice": (_states("foo=1,foo=1"), ""),
    "a key twice, other values": (_states("foo=1,foo=2"), ""),
    "a key twice, in two lines": (_states("foo=1", "foo=1"), ""),
    "a key twice, in two lines, other values": (_states("foo=1", "foo=2"), ""),
    "key: a space at its end": (_states("foo =1"), ""),
    "key: capitals": (_states("FOO=1"), ""),
    "key: a dot": (_states("foo.bar=1"), ""),
    "key: none": (_states("=1"), ""),
    "key: an underscore first": (_states("_a=1"), ""),
    "vendor: none": (_states("foo@=1,bar=2"), ""),
    "tenant: none": (_states("@foo=1,bar=2"), ""),
    "vendor: two at signs": (_states("foo@@bar=1,bar=2"), ""),
    "vendor: twice": (_states("foo@bar@baz=1,bar=2"), ""),
    "value: an equals sign": (_states("foo=bar=baz"), ""),
    "value: none": (_states("foo=,bar=3"), ""),
    "value: beyond ASCII": (_states("foo=\u00e9"), ""),
    "value: a tab": (_states("foo=a\tb"), ""),
    "no equals sign": (_states("foo"), ""),
    # Limits
    "32 members": (_states(",".join(MANY[:10]), ",".join(MANY[10:20]), ",".join(MANY[20:32])), ",".join(MANY[:32])),
    "33 members": (_states(",".join(MANY[:10]), ",".join(MANY[10:20]), ",".join(MANY[20:])), ""),
    "key of 256 characters": (_states("foo=1", "z" * 256 + "=1"), "foo=1," + "z" * 256 + "=1"),
    "key of 257 characters": (_states("foo=1", "z" * 257 + "=1"), ""),
    "tenant of 241, vendor of 14": (
        _states("foo=1", "t" * 241 + "@" + "v" * 14 + "=1"),
        "foo=1," + "t" * 241 + "@" + "v" * 14 + "=1",
    ),
    "tenant of 242 characters": (_states("foo=1", "t" * 242 + "@v=1"), ""),
    "vendor of 15 characters": (_states("foo=1", "t@" + "v" * 15 + "=1"), ""),
    "value of 256 characters": (_states("foo=" + "v" * 256), "foo=" + "v" * 256),
    "value of 257 characters": (_states("foo=" + "v" * 257), ""),
    # 512 characters must be passed on; more may be
    "more than 512 characters": (
        _states(*(f"key{number:02}=" + "v" * 250 for number in range(32))),
        ",".join(f"key{number:02}=" + "v" * 250 for number in range(32)),
    ),
}
