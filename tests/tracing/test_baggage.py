"""W3C Baggage over HTTP: passed on for who is trusted, dropped for all others."""

from __future__ import annotations

import pytest
from tracing.cases import GOOD, Lines

SPECIAL = "\t \"';=asdf!@#$%^&*()"
ENCODED = "%09%20%22%27%3B%3Dasdf%21%40%23%24%25%5E%26%2A%28%29"
LONG = "0123456789" * 819  # with "a=" 8,192 bytes


def _lines(*values: str) -> Lines:
    return [("baggage", value) for value in values]


# -- the header lines, what is passed on, and what the application gets ------------------------

BAGGAGE: dict[str, tuple[Lines, str, dict[str, str]]] = {
    "one member": (_lines("SomeKey=SomeValue"), "SomeKey=SomeValue", {"SomeKey": "SomeValue"}),
    "properties": (
        _lines("SomeKey=SomeValue;SomeProp,SomeKey2=SomeValue2;ValueProp=PropVal"),
        "SomeKey=SomeValue;SomeProp,SomeKey2=SomeValue2;ValueProp=PropVal",
        {"SomeKey": "SomeValue", "SomeKey2": "SomeValue2"},
    ),
    "properties, several": (
        _lines("SomeKey=SomeValue;SomeProp;SecondProp=PropValue"),
        "SomeKey=SomeValue;SomeProp;SecondProp=PropValue",
        {"SomeKey": "SomeValue"},
    ),
    "white space everywhere": (
        _lines("SomeKey \t = \t SomeValue \t ; \t SomeProp \t , \t SomeKey2 \t = \t SomeValue2 \t ; \t P \t = \t V"),
        "SomeKey=SomeValue;SomeProp,SomeKey2=SomeValue2;P=V",
        {"SomeKey": "SomeValue", "SomeKey2": "SomeValue2"},
    ),
    "equals signs in a value": (
        _lines("SomeKey=SomeValue=equals"),
        "SomeKey=SomeValue=equals",
        {"SomeKey": "SomeValue=equals"},
    ),
    "percent-encoded": (_lines(f"SomeKey={ENCODED}"), f"SomeKey={ENCODED}", {"SomeKey": SPECIAL}),
    "percent-encoded, white space around": (
        _lines(f"SomeKey \t = \t {ENCODED} \t "),
        f"SomeKey={ENCODED}",
        {"SomeKey": SPECIAL},
    ),
    "percent-encoded, beyond ASCII": (_lines("a=%C3%A9%E2%82%AC"), "a=%C3%A9%E2%82%AC", {"a": "\u00e9\u20ac"}),
    "percent-encoded, no UTF-8": (_lines("a=%FFx"), "a=%FFx", {"a": "\ufffdx"}),
    "empty value": (_lines("a="), "a=", {"a": ""}),
    "the specification's, with properties": (
        _lines("key1=value1;property1;property2, key2 = value2, key3=value3; propertyKey=propertyValue"),
        "key1=value1;property1;property2,key2=value2,key3=value3;propertyKey=propertyValue",
        {"key1": "value1", "key2": "value2", "key3": "value3"},
    ),
    "the specification's, in one line": (
        _lines("userId=alice,serverNode=DF%2028,isProduction=false"),
        "userId=alice,serverNode=DF%2028,isProduction=false",
        {"userId": "alice", "serverNode": "DF 28", "isProduction": "false"},
    ),
    "the specification's, in two lines": (
        _lines("userId=alice", "serverNode=DF%2028,isProduction=false"),
        "userId=alice,serverNode=DF%2028,isProduction=false",
        {"userId": "alice", "serverNode": "DF 28", "isProduction": "false"},
    ),
    "the specification's, with white space": (
        _lines("userId =   alice", "serverNode = DF%2028, isProduction = false"),
        "userId=alice,serverNode=DF%2028,isProduction=false",
        {"userId": "alice", "serverNode": "DF 28", "isProduction": "false"},
    ),
    "name in capitals": ([("BAGGAGE", "a=1")], "a=1", {"a": "1"}),
    "a key twice stays, in order": (_lines("a=1,b=2,a=3"), "a=1,b=2,a=3", {"a": "3", "b": "2"}),
    # What is not of the form is left out, the others stay
    "a bad member": (_lines("a=1,b c=2,d=3"), "a=1,d=3", {"a": "1", "d": "3"}),
    "no equals sign": (_lines("a=1,b,d=3"), "a=1,d=3", {"a": "1", "d": "3"}),
    "empty members": (_lines("a=1,, ,d=3,"), "a=1,d=3", {"a": "1", "d": "3"}),
    "nothing but white space": (_lines(" "), "", {}),
    "nothing good": (_lines("none"), "", {}),
    "none": ([], "", {}),
    # Limits
    "64 members": (
        _lines(",".join(f"key{i}=value" for i in range(64))),
        ",".join(f"key{i}=value" for i in range(64)),
        {f"key{i}": "value" for i in range(64)},
    ),
    "64 members in as many lines": (
        _lines(*(f"key{i}=value" for i in range(64))),
        ",".join(f"key{i}=value" for i in range(64)),
        {f"key{i}": "value" for i in range(64)},
    ),
    "65 members": (
        _lines(",".join(f"key{i}=value" for i in range(65))),
        ",".join(f"key{i}=value" for i in range(64)),
        {f"key{i}": "value" for i in range(64)},
    ),
    "8,192 bytes": (_lines(f"a={LONG}"), f"a={LONG}", {"a": LONG}),
    "8,192 bytes in 64 members": (
        _lines(",".join(f"{i:02}=" + "v" * 124 for i in range(63)), f"63={'v' * 125}"),
        ",".join(f"{i:02}=" + "v" * 124 for i in range(63)) + f",63={'v' * 125}",
        {**{f"{i:02}": "v" * 124 for i in range(63)}, "63": "v" * 125},
    ),
    "8,193 bytes": (_lines(f"a={LONG}1"), "", {}),
    "8,193 bytes, the last member too many": (_lines(f"b=1,a={LONG}"), "b=1", {"b": "1"}),
}


@pytest.mark.parametrize("name", BAGGAGE)
def test_baggage(trusting, distrusting, name):
    lines, passed_on, got = BAGGAGE[name]
    for trust, send in trusting.items():
        print(trust)
        answer = send(*lines)
        assert answer.sent("baggage") == ([passed_on] if passed_on else [])
        assert answer.told["baggage"] == got
    for trust, send in distrusting.items():
        print(trust)
        answer = send(("traceparent", GOOD), *lines)
        assert answer.sent("baggage") == []
        assert answer.told["baggage"] == {}


@pytest.mark.parametrize("path", ["/", "/coroutine"])
def test_with_every_call(trusting, path):
    for send in trusting.values():
        answer = send(("traceparent", GOOD), ("baggage", "a=1;p"), calls=3, path=path)
        assert [[value for name, value in call if name == "baggage"] for call in answer.calls] == [["a=1;p"]] * 3


def test_it_needs_no_trace(trusting):
    for send in trusting.values():
        assert send(("traceparent", "none"), ("baggage", "a=1")).sent("baggage") == ["a=1"]


@pytest.mark.parametrize("trust", ["always", "untrusted"])
def test_all_of_it_by_werkzeugs_server(services, trust):
    send = services(trust, "werkzeug")
    for name, (lines, passed_on, _) in BAGGAGE.items():
        assert send(*lines).sent("baggage") == ([passed_on] if passed_on and trust == "always" else []), name
