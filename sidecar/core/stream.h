/* Stream: an async iterable as a sync iterator, sidecar.Stream.
 *
 * The consumer's side; producer.h is the other.  It belongs to a bridge, whose
 * loop it takes at its first step.  One thread at a time may take a step.
 * Dropped before its end, on whatever thread, it has the generator closed on
 * the loop.  Attached.  */
#ifndef SIDECAR_CORE_STREAM_H
#define SIDECAR_CORE_STREAM_H

#include "core/state.h"

#endif
