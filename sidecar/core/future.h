/* Future: a concurrent.futures.Future whose condition is made only where
 * somebody waits for it: the C part of a class that derives from it and from
 * that one.
 *
 * Before there is a condition, every change is made under the object's
 * critical section (the GIL).  Whoever needs the condition makes it under the
 * same one, so from then on every change is the base class's, which takes the
 * condition.  So a waiter sees a change that was made before it came, and is
 * told of every later one.  Attached, any thread.  */
#ifndef SIDECAR_CORE_FUTURE_H
#define SIDECAR_CORE_FUTURE_H

#include "core/state.h"

#endif
