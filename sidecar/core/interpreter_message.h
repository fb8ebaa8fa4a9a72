/* Interpreter message: a Python value on its way to another interpreter.
 *
 * None, bool, int (64 bits), float, str, bytes, bytearray and tuples of these
 * go as they are, with no pickle; long str and bytes are not copied, but
 * pointed at: a share keeps them alive until the message is freed.  So does
 * a memoryview or a PickleBuffer, which the other side may keep: interpreter_
 * share.h.  Whatever else is not plain, and is pickled by who knows how; the
 * pickle goes as a payload, at which only the reader's own frame may look.
 *
 * What holds: a message is written by one interpreter, attached, then read by
 * another, attached to that; it is freed in the first.  Values are written
 * one after another and read in the same order.  A value that turns out not to
 * be plain leaves the message as it was.  */
#ifndef SIDECAR_CORE_INTERPRETER_MESSAGE_H
#define SIDECAR_CORE_INTERPRETER_MESSAGE_H

#include "core/compat.h"
#include "core/interpreter_share.h"

typedef struct {
    char *data; /* `fixed`, or on the heap */
    size_t size, room;
    ScShare **shares; /* NULL where one was taken over */
    size_t share_count, share_room;
    char fixed[192];
} ScMessage;

typedef struct {
    ScMessage *message;
    size_t at;
    ScShareViews *views; /* NULL: buffers are copied */
} ScReader;

enum { SC_MESSAGE_ERROR = -1, SC_MESSAGE_DONE, SC_MESSAGE_NOT_PLAIN };

void sc_message_init(ScMessage *message);
/* Attached to the writer's interpreter; may be called again. */
void sc_message_free(ScMessage *message);

int sc_message_put(ScMessage *message, PyObject *value);
/* Its keys are str. */
int sc_message_put_dict(ScMessage *message, PyObject *dict);
/* A bytes object, to be read as a memoryview that nobody keeps.  0 or -1. */
int sc_message_put_payload(ScMessage *message, PyObject *bytes);
/* Anything with a contiguous buffer.  0 or -1. */
int sc_message_put_buffer(ScMessage *message, PyObject *object);

/* New reference, or NULL with an error set. */
PyObject *sc_message_get(ScReader *reader);
PyObject *sc_message_get_dict(ScReader *reader); /* NULL, no error: empty */

#endif
