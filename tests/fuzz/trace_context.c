/* Trace context: what is taken is of the form, what is written parses to the
 * same, and what is cut is cut between members.
 *
 * The first byte is the grammar (two bits) and the room for a cut list. */
#include "input.h"
#include "middleware/trace_context.h"

/* -- traceparent -------------------------------------------------------- */

/* A second reader, of text that has no NUL in its first 56 characters. */
static bool
is_parent(ScText line)
{
    static const char hex[] = "0123456789abcdef";
    char text[SC_TRACEPARENT_LENGTH + 2] = "";
    ScText value = sc_text_trim(line);
    size_t length = value.length < 56 ? value.length : 56;
    memcpy(text, value.at, length);
    for (size_t i = 0; i < value.length; i++) {
        if (value.at[i] == ',') {
            return false;
        }
    }
    return strspn(text, hex) == 2 && text[2] == '-' &&
           strspn(text + 3, hex) == 32 && text[35] == '-' &&
           strspn(text + 36, hex) == 16 && text[52] == '-' &&
           strspn(text + 53, hex) == 2 && strspn(text + 3, "0") < 32 &&
           strspn(text + 36, "0") < 16 && strncmp(text, "ff", 2) != 0 &&
           (value.length == 55 ||
            (text[55] == '-' && strncmp(text, "00", 2) != 0));
}

static void
check_parent(ScText line)
{
    ScTraceContext context, again;
    ScTraceStatus status = sc_traceparent_parse(&line, 1, &context);
    HOLDS((status == SC_TRACE_OK) == is_parent(line));
    if (status != SC_TRACE_OK) {
        return;
    }
    char *written = malloc(SC_TRACEPARENT_LENGTH);
    ScText text = {written, SC_TRACEPARENT_LENGTH};
    sc_traceparent_write(&context, written);
    HOLDS(sc_traceparent_parse(&text, 1, &again) == SC_TRACE_OK);
    HOLDS(memcmp(&context, &again, sizeof(context)) == 0);
    sc_trace_continue(&context, &again);
    HOLDS(memcmp(context.trace_id, again.trace_id, SC_TRACE_ID_LENGTH) == 0);
    HOLDS(memcmp(context.parent_id, again.parent_id, SC_SPAN_ID_LENGTH) != 0);
    HOLDS(context.flags == again.flags);
    sc_traceparent_write(&again, written);
    HOLDS(is_parent(text));
    free(written);
}

/* -- tracestate --------------------------------------------------------- */

/* Parse again what was written: it must be itself. */
static void
check_written(ScText text, unsigned grammar, unsigned members)
{
    char *out = malloc(text.length > 0 ? text.length : 1);
    ScTracestate state =
        sc_tracestate_parse(&text, 1, grammar, out, text.length);
    HOLDS(state.status == (members > 0 ? SC_TRACE_OK : SC_TRACE_ABSENT));
    HOLDS(state.members == members && state.dropped == 0);
    HOLDS(same_text((ScText){out, state.length}, text));
    free(out);
}

/* Each member of `part` is one of `whole`, in the same order. */
static void
check_part(ScText whole, ScText part)
{
    ScText member, candidate;
    if (part.length == 0) {
        return;
    }
    while (sc_text_split(&part, ',', &member)) {
        do {
            HOLDS(sc_text_split(&whole, ',', &candidate));
        } while (!same_text(member, candidate));
    }
}

static void
check_state(const Lines *lines, unsigned grammar, size_t room)
{
    char *out = malloc(SC_TRACESTATE_LONGEST);
    ScTracestate whole = sc_tracestate_parse(
        lines->lines, lines->count, grammar, out, SC_TRACESTATE_LONGEST);
    HOLDS(whole.dropped == 0 && whole.length <= SC_TRACESTATE_LONGEST);
    HOLDS(whole.members <= SC_TRACESTATE_MEMBERS);
    HOLDS((whole.status == SC_TRACE_OK) == (whole.members > 0));
    ScText text = {out, whole.length};
    if (whole.status == SC_TRACE_OK) {
        check_written(text, grammar, whole.members);
        check_written(text, SC_TRACESTATE_LEVEL_2, whole.members);
    }
    char *cut = malloc(room > 0 ? room : 1);
    ScTracestate part =
        sc_tracestate_parse(lines->lines, lines->count, grammar, cut, room);
    HOLDS(part.status == whole.status && part.length <= room);
    HOLDS(part.members + part.dropped == whole.members);
    HOLDS(room < whole.length || part.dropped == 0);
    check_part(text, (ScText){cut, part.length});
    check_written((ScText){cut, part.length}, grammar, part.members);
    free(cut);
    free(out);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) {
        return 0;
    }
    Lines lines;
    ScTraceContext context;
    lines_take(&lines, data + 1, size - 1);
    for (size_t i = 0; i < lines.count; i++) {
        check_parent(lines.lines[i]);
    }
    if (lines.count > 1) {
        HOLDS(sc_traceparent_parse(lines.lines, lines.count, &context) ==
              SC_TRACE_SEVERAL);
    }
    check_state(&lines, data[0] & 3u, (size_t)(data[0] >> 2) * 9);
    lines_free(&lines);
    return 0;
}
