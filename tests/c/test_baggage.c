/* Baggage: the examples and requirements of W3C Baggage, and the cases of the
 * W3C's own tests (named test_*).  Sections are those of
 * https://www.w3.org/TR/baggage/. */
#include "field_lines.h"
#include "middleware/baggage.h"

typedef struct {
    int line;
    const char *what;
    const char *lines[4];
    /* For each member key=value, then ;property or ;property=value, decoded,
     * and a line end. */
    const char *decoded;
    const char *written; /* NULL: what is on the first line */
    unsigned invalid;
} Row;

#define ROW(what, ...)              \
    {                               \
        __LINE__, what, __VA_ARGS__ \
    }

#define SOME "SomeKey=SomeValue"
#define FFFD "\xEF\xBF\xBD"
#define ODD "\t \"';=asdf!@#$%^&*()"
/* As urllib.parse.quote has it. */
#define ODD_QUOTED "%09%20%22%27%3B%3Dasdf%21%40%23%24%25%5E%26%2A%28%29"

static const Row rows[] = {
    /* 3.3.3 */
    ROW("example",
        {"key1=value1;property1;property2, key2 = value2, key3=value3; "
         "propertyKey=propertyValue"},
        "key1=value1;property1;property2\nkey2=value2\n"
        "key3=value3;propertyKey=propertyValue\n",
        "key1=value1;property1;property2,key2=value2,"
        "key3=value3;propertyKey=propertyValue",
        0),
    /* 3.4 */
    ROW("single header",
        {"userId=alice,serverNode=DF%2028,isProduction=false"},
        "userId=alice\nserverNode=DF 28\nisProduction=false\n", NULL, 0),
    ROW("outside of baggage-octet",
        {"userId=Am%C3%A9lie,serverNode=DF%2028,isProduction=false"},
        "userId=Am\xC3\xA9lie\nserverNode=DF 28\nisProduction=false\n", NULL,
        0),
    ROW("multiple headers",
        {"userId=alice", "serverNode=DF%2028,isProduction=false"},
        "userId=alice\nserverNode=DF 28\nisProduction=false\n",
        "userId=alice,serverNode=DF%2028,isProduction=false", 0),
    ROW("begin and end with spaces",
        {"userId =   alice", "serverNode = DF%2028, isProduction = false"},
        "userId=alice\nserverNode=DF 28\nisProduction=false\n",
        "userId=alice,serverNode=DF%2028,isProduction=false", 0),
    /* 3.4.1 */
    ROW("example use case", {"serverNode=DF%2028"}, "serverNode=DF 28\n", NULL,
        0),
    ROW("example use case", {"userId=alice"}, "userId=alice\n", NULL, 0),
    ROW("example use case", {"isProduction=false"}, "isProduction=false\n",
        NULL, 0),

    /* The W3C's tests. */
    ROW("test_ctor_default", {NULL}, "", "", 0),
    ROW("test_parse_simple", {SOME}, SOME "\n", NULL, 0),
    ROW("test_parse_multiple",
        {SOME ";SomeProp,SomeKey2=SomeValue2;ValueProp=PropVal"},
        SOME ";SomeProp\nSomeKey2=SomeValue2;ValueProp=PropVal\n", NULL, 0),
    ROW("test_parse_multiple_ows",
        {"SomeKey \t = \t SomeValue \t ; \t SomeProp \t , \t SomeKey2 \t = \t "
         "SomeValue2 \t ; \t ValueProp \t = \t PropVal"},
        SOME ";SomeProp\nSomeKey2=SomeValue2;ValueProp=PropVal\n",
        SOME ";SomeProp,SomeKey2=SomeValue2;ValueProp=PropVal", 0),
    ROW("test_parse_multiple_ows (without properties)",
        {"SomeKey \t = \t SomeValue \t , \t SomeKey2 \t = \t SomeValue2 \t "},
        SOME "\nSomeKey2=SomeValue2\n", SOME ",SomeKey2=SomeValue2", 0),
    ROW("test_parse_multiple_kv_property",
        {SOME ";SomePropKey=SomePropValue,SomeKey2=SomeValue2;"
              "SomePropKey2=SomePropValue2"},
        SOME ";SomePropKey=SomePropValue\n"
             "SomeKey2=SomeValue2;SomePropKey2=SomePropValue2\n",
        NULL, 0),
    ROW("test_parse_multiple_kv_property_ows",
        {"SomeKey \t = \t SomeValue \t ; \t SomePropKey=SomePropValue \t , \t "
         "SomeKey2 \t = \t SomeValue2 \t ; \t SomePropKey2 \t = \t "
         "SomePropValue2"},
        SOME ";SomePropKey=SomePropValue\n"
             "SomeKey2=SomeValue2;SomePropKey2=SomePropValue2\n",
        SOME ";SomePropKey=SomePropValue,"
             "SomeKey2=SomeValue2;SomePropKey2=SomePropValue2",
        0),
    /* 3.3.1.3: "MUST NOT assume that the equal sign is only used to separate
     * key and value". */
    ROW("test_parse_multiple_equals", {SOME "=equals"}, SOME "=equals\n", NULL,
        0),
    ROW("test_parse_percent_encoded", {"SomeKey=" ODD_QUOTED},
        "SomeKey=" ODD "\n", NULL, 0),
    ROW("test_parse_percent_encoded_ows",
        {"SomeKey \t = \t " ODD_QUOTED " \t "}, "SomeKey=" ODD "\n",
        "SomeKey=" ODD_QUOTED, 0),
    ROW("test_parse_property", {SOME ";SomeProp"}, SOME ";SomeProp\n", NULL,
        0),
    ROW("test_parse_multi_property", {SOME ";SomeProp;SecondProp=PropValue"},
        SOME ";SomeProp;SecondProp=PropValue\n", NULL, 0),
    ROW("test_parse_multiple_properties_same_name",
        {SOME ";SomeProp;SomeProp=PropValue;SomeProp=AnotherPropValue"},
        SOME ";SomeProp;SomeProp=PropValue;SomeProp=AnotherPropValue\n", NULL,
        0),
    ROW("test_parse_kv_property", {SOME ";SomePropKey=SomePropValue"},
        SOME ";SomePropKey=SomePropValue\n", NULL, 0),
    ROW("test_parse_simple_ows", {"SomeKey \t = \t SomeValue \t "}, SOME "\n",
        SOME, 0),
    ROW("test_parse_property_ows",
        {"SomeKey \t = \t SomeValue \t ; \t SomeProp"}, SOME ";SomeProp\n",
        SOME ";SomeProp", 0),
    ROW("test_parse_multi_property_ows",
        {"SomeKey \t = \t SomeValue \t ; \t SomeProp \t ; \t SecondProp \t = "
         "\t PropValue"},
        SOME ";SomeProp;SecondProp=PropValue\n",
        SOME ";SomeProp;SecondProp=PropValue", 0),
    ROW("test_parse_kv_property_ows",
        {"SomeKey \t = \t SomeValue \t ; \t SomePropKey \t = \t "
         "SomePropValue"},
        SOME ";SomePropKey=SomePropValue\n", SOME ";SomePropKey=SomePropValue",
        0),
    ROW("test_parse_percent_encoded_property",
        {SOME ";SomePropKey=" ODD_QUOTED}, SOME ";SomePropKey=" ODD "\n", NULL,
        0),
    ROW("test_parse_property_without_value_no_percent_decoding",
        {SOME ";ValueProp%20%09%20%3D%20%09%20PropVal"},
        SOME ";ValueProp%20%09%20%3D%20%09%20PropVal\n", NULL, 0),
    ROW("test_just_key_no_equals", {"justKey"}, "", "", 1),
    ROW("test_just_key_among_valid_entries", {"k1=v1,justKey,k2=v2"},
        "k1=v1\nk2=v2\n", "k1=v1,k2=v2", 1),
    ROW("test_parse_empty_value", {"SomeKey="}, "SomeKey=\n", NULL, 0),
    ROW("test_parse_empty_value_with_property", {"SomeKey=;SomeProp"},
        "SomeKey=;SomeProp\n", NULL, 0),
    ROW("test_parse_empty_value_ows", {"SomeKey \t = \t "}, "SomeKey=\n",
        "SomeKey=", 0),
    ROW("test_parse_duplicate_keys", {"key=value1,key=value2"},
        "key=value1\nkey=value2\n", NULL, 0),
    ROW("test_parse_duplicate_keys_preserves_order",
        {"k=first,k=second,k=third"}, "k=first\nk=second\nk=third\n", NULL, 0),
    ROW("test_parse_duplicate_keys_with_different_properties",
        {"key=value1;prop1,key=value2;prop2=val"},
        "key=value1;prop1\nkey=value2;prop2=val\n", NULL, 0),
    /* 3.3.1.3: "that do not match the UTF-8 encoding scheme MUST be replaced
     * with the replacement code point". */
    ROW("test_invalid_utf8_single_continuation_byte", {"key=%80"},
        "key=" FFFD "\n", NULL, 0),
    ROW("test_invalid_utf8_truncated_sequence", {"key=%C3"}, "key=" FFFD "\n",
        NULL, 0),
    ROW("test_invalid_utf8_surrounded_by_valid", {"key=hello%80world"},
        "key=hello" FFFD "world\n", NULL, 0),
    ROW("test_invalid_utf8_in_property_value", {"key=value;prop=%80"},
        "key=value;prop=" FFFD "\n", NULL, 0),
    ROW("test_roundtrip_percent_encoded_value", {"key=hello%20world"},
        "key=hello world\n", NULL, 0),
    ROW("test_roundtrip_multiple_entries_with_properties",
        {"k1=v1;p1;p2=pv2,k2=v2;p3=pv3"}, "k1=v1;p1;p2=pv2\nk2=v2;p3=pv3\n",
        NULL, 0),
    ROW("test_roundtrip_preserves_entry_count", {"a=1,b=2,c=3,d=4,e=5"},
        "a=1\nb=2\nc=3\nd=4\ne=5\n", NULL, 0),

    /* 3.3.1: key = token. */
    ROW("every tchar", {"!#$%&'*+-.^_`|~09azAZ=1"},
        "!#$%&'*+-.^_`|~09azAZ=1\n", NULL, 0),
    ROW("a key is not decoded", {"a%20b=1"}, "a%20b=1\n", NULL, 0),
    ROW("no key", {"=1"}, "", "", 1),
    ROW("white space in a key", {"a b=1,c=2"}, "c=2\n", "c=2", 1),
    ROW("a bad key", {"a(=1,b@=1,c/=1,\"d\"=1,e:=1,f=2"}, "f=2\n", "f=2", 5),
    ROW("a key that is not ASCII", {"\xC3\xBC=1,a=2"}, "a=2\n", "a=2", 1),
    /* 3.3.1: value = *baggage-octet. */
    ROW("every baggage-octet",
        {"a=!#$&'()*+-./0123456789:<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[]^_`"
         "abcdefghijklmnopqrstuvwxyz{|}~"},
        "a=!#$&'()*+-./0123456789:<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[]^_`"
        "abcdefghijklmnopqrstuvwxyz{|}~\n",
        NULL, 0),
    ROW("DQUOTE, backslash, white space, DEL, controls",
        {"a=\"1\",b=\\,c=1 2,d=1\t2,e=\x7F,f=\x01,g=\r\n,h=3"}, "h=3\n", "h=3",
        7),
    ROW("not ASCII", {"a=\xC3\xBC,b=\xFF,c=1"}, "c=1\n", "c=1", 2),
    ROW("a plus is a plus", {"a=1+2"}, "a=1+2\n", NULL, 0),
    ROW("lowercase hex", {"a=%c3%a9"}, "a=\xC3\xA9\n", NULL, 0),
    ROW("decoded once", {"a=%2541"}, "a=%41\n", NULL, 0),
    /* 3.3.1.3: "The percent code point MUST be percent-encoded": written so
     * where it was not. */
    ROW("% alone", {"a=%"}, "a=%\n", "a=%25", 0),
    ROW("% alone", {"a=100%,b=2"}, "a=100%\nb=2\n", "a=100%25,b=2", 0),
    ROW("% and one digit", {"a=%4"}, "a=%4\n", "a=%254", 0),
    ROW("% and no digits", {"a=%zz;b=%4z"}, "a=%zz;b=%4z\n", "a=%25zz;b=%254z",
        0),
    ROW("%%", {"a=%%41"}, "a=%A\n", "a=%25%41", 0),
    /* 3.3.1.4: properties. */
    ROW("no property after ;", {"a=1;,b=2"}, "b=2\n", "b=2", 1),
    ROW("nothing between two ;", {"a=1;;c,b=2"}, "b=2\n", "b=2", 1),
    ROW("property without key", {"a=1;=1,b=2"}, "b=2\n", "b=2", 1),
    ROW("bad property key", {"a=1;b c,d=2"}, "d=2\n", "d=2", 1),
    ROW("bad property value", {"a=1;b=\"c\",d=2"}, "d=2\n", "d=2", 1),
    ROW("an empty value of a property", {"a=1;b=,c=2"}, "a=1;b=\nc=2\n", NULL,
        0),
    ROW("= in the value of a property", {"a=1;b=c=d"}, "a=1;b=c=d\n", NULL, 0),
    /* RFC 9110, section 5.6.1: empty elements are none. */
    ROW("empty", {""}, "", "", 0),
    ROW("empty members", {",a=1,, ,", "", "\t", "b=2,"}, "a=1\nb=2\n",
        "a=1,b=2", 0),
};

static void
append_value(char *out, ScText value)
{
    char *decoded = malloc(value.length > 0 ? value.length : 1);
    CHECK(decoded != NULL);
    size_t length = sc_baggage_decode(value, decoded);
    CHECK(length <= value.length);
    sprintf(out + strlen(out), "=%.*s", (int)length, decoded);
    free(decoded);
}

static void
append_member(char *out, const ScBaggageMember *member)
{
    ScText rest = member->properties;
    ScBaggageProperty property;
    sprintf(out + strlen(out), "%.*s", (int)member->key.length,
            member->key.at);
    append_value(out, member->value);
    while (sc_baggage_property(&rest, &property)) {
        sprintf(out + strlen(out), ";%.*s", (int)property.key.length,
                property.key.at);
        if (property.has_value) {
            append_value(out, property.value);
        }
    }
    strcat(out, "\n");
}

static void
check_row(const Row *row)
{
    static ScBaggage baggage;
    static ScBaggageText text;
    char decoded[500] = "";
    Lines lines;
    lines_make(&lines, row->lines, 4);
    sc_baggage_parse(lines.lines, lines.count, &baggage);
    for (unsigned i = 0; i < baggage.count; i++) {
        append_member(decoded, &baggage.members[i]);
    }
    check_same(row->line, row->what, text_of(decoded), text_of(row->decoded));
    check_number(row->line, row->what, baggage.invalid, row->invalid);
    CHECK_EQ(baggage.dropped, 0);
    text.count = 0;
    text.length = 0;
    CHECK_EQ(sc_baggage_put_list(&text, &baggage), SC_BAGGAGE_OK);
    CHECK_EQ(text.length, baggage.length);
    check_same(row->line, row->what, (ScText){text.text, text.length},
               text_of(row->written ? row->written : row->lines[0]));
    lines_free(&lines);
}

static void
test_rows(void)
{
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        check_row(&rows[i]);
    }
}

/* 3.3.3: "contains 86 bytes. 82 bytes come from the list-members". */
static void
test_lengths_of_the_example(void)
{
    static ScBaggage baggage;
    CHECK_EQ(strlen(rows[0].lines[0]), 86);
    ScText line = text_of(rows[0].lines[0]);
    sc_baggage_parse(&line, 1, &baggage);
    CHECK_EQ(baggage.members[0].properties.length,
             strlen("property1;property2"));
    /* Without five spaces: two before members, one before a property, and
     * those around key2's '='. */
    CHECK_EQ(baggage.length, 86 - 5);
}

int
main(void)
{
    test_rows();
    test_lengths_of_the_example();
    return 0;
}
