/* Inbound ids: taken where a second, plainer reader of the rule takes them. */
#include "input.h"
#include "middleware/inbound_id.h"

#define ID_CHARS                                           \
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz" \
    "0123456789._-"

static bool
is_one(ScText line)
{
    char text[SC_INBOUND_ID_LIMIT + 1];
    size_t from = 0, to = line.length;
    while (from < to && (line.at[from] == ' ' || line.at[from] == '\t')) {
        from++;
    }
    while (from < to && (line.at[to - 1] == ' ' || line.at[to - 1] == '\t')) {
        to--;
    }
    if (to - from < 1 || to - from > SC_INBOUND_ID_LIMIT) {
        return false;
    }
    memcpy(text, line.at + from, to - from);
    text[to - from] = '\0';
    return strspn(text, ID_CHARS) == to - from;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Lines lines;
    ScText id;
    lines_take(&lines, data, size);
    HOLDS(!sc_inbound_id_parse(lines.lines, 0, &id));
    for (size_t i = 0; i < lines.count; i++) {
        ScText line = lines.lines[i];
        bool taken = sc_inbound_id_parse(&line, 1, &id);
        HOLDS(taken == is_one(line));
        if (taken) {
            ScText again;
            HOLDS(id.at >= line.at);
            HOLDS(id.at + id.length <= line.at + line.length);
            HOLDS(sc_inbound_id_parse(&id, 1, &again));
            HOLDS(same_text(id, again));
        }
    }
    if (lines.count > 1) {
        HOLDS(!sc_inbound_id_parse(lines.lines, lines.count, &id));
    }
    lines_free(&lines);
    return 0;
}
