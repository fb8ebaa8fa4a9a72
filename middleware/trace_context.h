/* Trace context: the headers traceparent and tracestate.
 *
 * W3C Trace Context, level 1 (https://www.w3.org/TR/trace-context-1/) and
 * level 2 (https://www.w3.org/TR/trace-context-2/); sections below are level
 * 2's.  Ids are kept as they are written: lowercase hex, no terminator.
 *
 * A context that was parsed, started or continued is valid: neither id is all
 * zeros, and no flag is set but the two that are known.  What cannot be
 * parsed is an answer that says why, for counting, never an error: the caller
 * starts a new trace (section 3.4, restart), and does not look at tracestate
 * (3.3).
 *
 * No Python.h; any thread, attached or not; nothing is allocated.  */
#ifndef SIDECAR_MIDDLEWARE_TRACE_CONTEXT_H
#define SIDECAR_MIDDLEWARE_TRACE_CONTEXT_H

#include "middleware/field.h"

#define SC_TRACE_ID_LENGTH 32
#define SC_SPAN_ID_LENGTH 16
#define SC_TRACEPARENT_LENGTH 55

/* Section 3.2.2.5. */
#define SC_TRACE_SAMPLED 0x01 /* the caller may have recorded it */
#define SC_TRACE_RANDOM 0x02  /* the right 7 bytes of the trace id are */
#define SC_TRACE_FLAGS (SC_TRACE_SAMPLED | SC_TRACE_RANDOM)

typedef struct {
    char trace_id[SC_TRACE_ID_LENGTH];
    char parent_id[SC_SPAN_ID_LENGTH]; /* the span of who sends it */
    unsigned char flags;               /* out of SC_TRACE_FLAGS */
} ScTraceContext;

/* What is wrong with a header; counted by these. */
typedef enum {
    SC_TRACE_OK,
    SC_TRACE_ABSENT,    /* no line, or nothing but white space */
    SC_TRACE_SEVERAL,   /* traceparent: more than one */
    SC_TRACE_MALFORMED, /* traceparent: not of its form, or version ff */
    SC_TRACE_ZEROS,     /* traceparent: an id that is all zeros */
    SC_TRACE_KEY,       /* tracestate: no key and '=', or a bad key */
    SC_TRACE_VALUE,     /* tracestate: an empty or bad value */
    SC_TRACE_DUPLICATE, /* tracestate: one key twice */
    SC_TRACE_MEMBERS,   /* tracestate: more than 32 members */
} ScTraceStatus;

/* Parse traceparent (3.2).  Version 00 is taken strictly, versions 01 to fe
 * by the rule for higher ones (3.2.4): their first 55 characters, at the end
 * of the value or before a '-'.  Flags that level 2 does not know are
 * dropped.  White space around the value is not part of it.  Several headers
 * are none, also where a server joined them with commas.  `out` is as it was
 * unless the answer is SC_TRACE_OK. */
ScTraceStatus sc_traceparent_parse(const ScText *lines, size_t count,
                                   ScTraceContext *out);

/* Write it in version 00: SC_TRACEPARENT_LENGTH characters. */
void sc_traceparent_write(const ScTraceContext *context, char *out);

/* A new span id: SC_SPAN_ID_LENGTH random characters. */
void sc_span_id_make(char *out);

/* A new trace, and a span of ours in it.  All of the trace id is random, and
 * the random flag says so (3.2.2.5.2); `sampled` should be false where nobody
 * decided (3.2.2.5.1). */
void sc_trace_start(ScTraceContext *out, bool sampled);

/* A new span of ours in the same trace (3.4, update parent-id): what a
 * service is to its caller, and each outgoing call to the service.  Keeps the
 * flags, as the random flag must be.  May be done in place. */
void sc_trace_continue(const ScTraceContext *from, ScTraceContext *out);

/* -- tracestate (3.3) --------------------------------------------------- */

#define SC_TRACESTATE_MEMBERS 32
/* Characters that everybody should propagate (3.3.3.1). */
#define SC_TRACESTATE_LIMIT 512
/* The longest list there is in canonical form: 32 members with a key and a
 * value of 256 characters each. */
#define SC_TRACESTATE_LONGEST (SC_TRACESTATE_MEMBERS * (256 + 1 + 256 + 1) - 1)

/* What keys are taken beside those of level 1 (level 1, 3.3.1.3.1): its keys
 * begin with a letter, or are tenant@system with up to 241 and 14 characters,
 * where only the tenant may begin with a digit.  Level 2 (3.3.2.2.1) takes
 * both of the others, up to 256 characters in all.  W3C's harness wants
 * SC_TRACESTATE_ANY_AT off at its strict level. */
#define SC_TRACESTATE_DIGIT_FIRST 0x01 /* 1key */
#define SC_TRACESTATE_ANY_AT 0x02      /* a@, a@@b, a@b@c, a@1 */
#define SC_TRACESTATE_LEVEL_1 0
#define SC_TRACESTATE_LEVEL_2 \
    (SC_TRACESTATE_DIGIT_FIRST | SC_TRACESTATE_ANY_AT)

typedef struct {
    ScTraceStatus status;
    size_t length;    /* of what was written */
    unsigned members; /* that were written */
    unsigned dropped; /* that were left out for want of room */
} ScTracestate;

/* Parse all lines as one list, in their order (RFC 9110, section 5.3), and
 * write it to `out` in canonical form: whole members in their order, commas
 * between them, no white space around, no empty members.
 *
 * One bad member, a key that is there twice, or a 33rd member (empty ones do
 * not count) loses the whole list: nothing is written, and the status says
 * why.  A list that is longer than `size` loses whole members: from the
 * right those of more than 128 characters first, then any (3.3.3.1).  `size`
 * should be SC_TRACESTATE_LIMIT or more; SC_TRACESTATE_LONGEST never loses
 * one. */
ScTracestate sc_tracestate_parse(const ScText *lines, size_t count,
                                 unsigned grammar, char *out, size_t size);

#endif
