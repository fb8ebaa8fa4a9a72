#include "plugin.h"

/* The only place with PyGILState_*.  uWSGI calls the hooks that stand outside
 * of requests in the main thread, which made the main interpreter and so has
 * a thread state there; but attached or not, depending on the hook, on
 * threads, and on the loop engine (at post_fork it is not attached with
 * threads on, and is with threads off).  Ensure finds out; there is no other
 * public way to ask. */
ScAttachment
sc_attachment_begin(void)
{
    ScAttachment attachment = {PyGILState_Ensure()};
    return attachment;
}

void
sc_attachment_end(ScAttachment attachment)
{
    PyGILState_Release(attachment.state);
}
