/* The model's loop: its ring, what a step of a call does, and a round.  All on
 * the owner, unless it says otherwise; model.h has the model.  */
#ifndef SIDECAR_TESTS_MODEL_LOOP_H
#define SIDECAR_TESTS_MODEL_LOOP_H

#include "model.h"

enum { MODEL_FDS = 4096 };

/* What an op in the inbox is: a call's first step, which a restricted owner
 * leaves there, or a later one. */
enum { OP_START, OP_RESUME };

/* This thread has become the owner; and is about to be it no more. */
void model_come_in(Model *model);
void model_go_out(Model *model);

/* Go out, and let the loop go. */
void model_leave(Model *model);

/* The call takes its next step in this round or the next. */
void model_ring_push(Call *call);

/* An errand has been run, or nobody will.  Any thread. */
void model_answer(Call *call, ScOp *errand);

/* Nobody runs what the call still has.  Any thread, once its own is gone. */
void model_refuse_errands(Call *call);

/* Take in what has come; sleep where nothing is ready and it may. */
void model_gather(Model *model, bool may_sleep, bool restricted);

/* Run what is ready.  True: `own` is done.  It comes back early where the
 * owner must yield. */
bool model_run_ready(Model *model, Call *own);

#endif
