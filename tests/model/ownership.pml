/* Ownership: who runs a bridge's loop, as drive.c, pump.c, park.c, poller.c,
 * loop_run.c and caller.c have it.  docs/design/ownership.md explains it; the
 * names here are those of the C functions.
 *
 * One statement, or one atomic sequence, is what no other thread can see half
 * done: an access to an atomic, a system call, or what is done under the
 * drive's lock to what only lock holders read.  `locked` is held over the two
 * places that touch the sleep's announcement under the lock.  There is no GIL
 * here: all threads run at once.
 *
 * A configuration (configurations.txt) sets the parameters below; a mutation
 * (mutations.txt) defines one FAULT_..., which is checked where the step that
 * it spoils stands.  */

#ifndef NC
#define NC 2               /* callers: threads 1 to NC */
#endif
#ifndef KINDS              /* what call i does, one K_... each */
#define KINDS K_RING, K_RING
#endif
#ifndef RESTRICTED         /* a set of callers, by BIT(i) */
#define RESTRICTED 0
#endif
#ifndef STUBBORN           /* whose call takes no notice of being cancelled */
#define STUBBORN 0
#endif
#ifndef IMPATIENT          /* who may give up waiting, at any moment */
#define IMPATIENT 0
#endif
#ifndef SIGNALS            /* who may be interrupted, SIGNAL_COUNT times */
#define SIGNALS 0
#endif
#ifndef SIGNAL_COUNT
#define SIGNAL_COUNT 1
#endif
#ifndef ROUNDS             /* calls that a caller makes, one after another */
#define ROUNDS 1
#endif
#ifndef PRODUCERS          /* foreign threads that post one op each */
#define PRODUCERS 0
#endif
#ifndef TASK_TIMER         /* when a task left before has a timer; 0: none */
#define TASK_TIMER 0
#endif
#ifndef TASK_IO            /* so often a left task's descriptor is ready */
#define TASK_IO 0
#endif
#ifndef IO_EVENTS          /* so often something comes to the descriptor */
#define IO_EVENTS TASK_IO
#endif
#ifndef ERRANDS            /* so many a K_ERRAND or K_LATE call sends its thread */
#define ERRANDS 0
#endif
#ifndef NOW_MAX            /* moments of the clock: 1 to NOW_MAX */
#define NOW_MAX 0
#endif
#ifndef LATE_PUMP          /* 1: the loop has no pump at first; 2: its starter
                              owns it meanwhile, as sc_loop_start_pump does */
#define LATE_PUMP 0
#endif

#define BIT(i) (1 << (i))
#define IN(set, i) (((set) >> (i)) & 1)

/* Calls.  RING: ends with its first step.  TIMER: waits until the moment i.
 * IO: waits for the descriptor.  OP: for another thread, which posts.  SPAWN:
 * leaves a task behind that has a timer for the moment i.  WIND: shutdown's
 * own call, after which its caller stops the pump and closes the loop.
 * ORPHAN: its time is out at the moment i and so is its cleanup's.  ERRAND:
 * sends its thread on ERRANDS errands, one with each step, and ends when all
 * have been answered; by ROUNDS == 1 only.  LATE: the same, and as ORPHAN. */
#define K_RING 0
#define K_TIMER 1
#define K_IO 2
#define K_OP 3
#define K_SPAWN 4
#define K_WIND 5
#define K_ORPHAN 6
#define K_ERRAND 7
#define K_LATE 8

#define PUMP (NC + 1)
#define STARTER (NC + 2)
#define NEVER 0

/* Handles and ops. */
#define START(i) (i)
#define STEP(i) (8 + (i))
#define CANCEL(i) (16 + (i))
#define TASK(i) (24 + (i))
#define IO 40
#define FOREIGN 41
#define ANSWER(i) (48 + (i))    /* an errand has been run, or refused */
#define OUT(i) (56 + (i))       /* a K_LATE call's time is out */

mtype = { WAITING, PROMOTED, DONE, SUMMONED, OFF, ARMED, FIRED };

/* -- the drive ----------------------------------------------------------- */

bool locked;
byte owner, calls, tasks;
bool owner_restricted, refusing, has_pump;
bool asleep;
/* The queue: its order matters within a class only, see oldest_eligible(). */
chan eligible = [NC + 1] of { byte };
chan confined = [NC + 1] of { byte };
chan inbox = [(2 + ERRANDS) * NC + PRODUCERS + 1] of { byte };

/* -- the kernel ---------------------------------------------------------- */

bool ev;                    /* an edge of the loop's eventfd, not yet taken */
bool io_registered, io_data;
byte now, timerfd_at;
bool timerfd_edge, kick_edge;
bool outer_armed;           /* the pump's EPOLLONESHOT watch */
#define inner_ready (ev || (io_registered && io_data))

/* -- the pump ------------------------------------------------------------ */

mtype watch = OFF;
byte timer_at;              /* NEVER, or what timerfd was set to */
bool stop, ended;

/* -- the loop: the owner's ----------------------------------------------- */

chan ring = [(3 + 2 * ERRANDS) * NC + PRODUCERS + 4] of { byte };
byte timer[NOW_MAX + NC + 1]; /* by moment: the handle; 0: none */
bool io_queued;
byte io_call;               /* whose call waits for it; 0: a task does */

/* -- calls and waiters, by caller ---------------------------------------- */

byte kind[NC + 1];
mtype word[NC + 1];
bool sleeping[NC + 1];      /* in FUTEX_WAIT */
bool event[NC + 1];         /* the eventfd of who sleeps in ppoll */
byte refs[NC + 1];          /* to the call, in which the waiter lies */
bool inside_call[NC + 1];   /* its caller has not returned */
bool started[NC + 1], over[NC + 1], done[NC + 1], abandoned[NC + 1];
bool orphaned[NC + 1], cancelled[NC + 1], stepping[NC + 1];
bool told[NC + 1];          /* sc_drive_complete has been called */
bool cancel_posted[NC + 1];
bool helper[NC + 1];        /* K_OP: the other thread has something to post */

/* -- errands, by caller: what its call asks of its thread ----------------- */

#if ERRANDS > 0
bool away[NC + 1], gone[NC + 1];
byte errands[NC + 1];       /* pushed, and not taken yet */
byte sent[NC + 1], answered[NC + 1];
#endif
#define sends_errands(i) (kind[i] == K_ERRAND || kind[i] == K_LATE)

/* -- what is checked ----------------------------------------------------- */

byte inside;                /* who is between taking the loop and leaving it */
bool closed;
byte returned, served, ios;

#define confines(me) (owner_restricted && owner == (me))
#define is_restricted(me) ((me) <= NC && IN(RESTRICTED, me))

inline come_in()
{
    d_step {
        assert(owner == me);        /* ownership was given to this thread */
        assert(inside == 0);        /* and to no other */
        assert(!closed);
        inside = me;
    }
}

inline go_out()
{
    d_step {
        assert(inside == me && owner == me);
        inside = 0;
    }
}

/* -- park ---------------------------------------------------------------- */

/* A write to the word: the memory must be there still. */
inline store(i, value)
{
    assert(refs[i] > 0);
    assert(word[i] == WAITING);
    word[i] = value;
}

/* sc_park_wake: by address and descriptor only, after the lock. */
inline wake(i)
{
#ifdef FAULT_NO_WAKE
    skip
#else
    atomic {
        if
        :: is_restricted(i) -> event[i] = true
        :: else -> sleeping[i] = false
        fi
    }
#endif
}

/* -- inbox and announcement ---------------------------------------------- */

/* sc_drive_post: four steps. */
inline post(op)
{
#ifdef FAULT_LOOK_BEFORE_PUSH
    was_asleep = asleep;
    inbox!op;
#else
    inbox!op;
    was_asleep = asleep;
#endif
    if
    :: was_asleep ->
        atomic {
            was_asleep = asleep;
#ifndef FAULT_ANNOUNCEMENT_STAYS
            asleep = false;
#endif
        }
        if
        :: was_asleep ->
#ifdef FAULT_NO_EVENT
            skip
#else
            ev = true
#endif
        :: else
        fi
    :: else
    fi;
    was_asleep = false
}

/* sc_loop_take_inbox: one exchange; the rest is the owner's own. */
inline take_inbox()
{
    atomic {
        do
        :: len(inbox) > 0 ->
            inbox?h;
            if
            :: h > 16 && h <= 16 + NC ->    /* sc_call_take_cancel */
                cancel_posted[h - 16] = false;
                if
                :: !done[h - 16] -> ask_task(h - 16)
                :: else
                fi;
                release(h - 16)
            :: else -> ring!h
            fi
        :: len(inbox) == 0 -> break
        od;
        h = 0
    }
}

/* -- calls: on the owner ------------------------------------------------- */

inline release(i)
{
    assert(refs[i] > 0);
    refs[i]--
}

/* sc_call_cancel: the task's next step comes at once. */
inline ask_task(i)
{
    cancelled[i] = true;
    if
    :: started[i] && !over[i] && !stepping[i] && !IN(STUBBORN, i) ->
        stepping[i] = true;
        ring!STEP(i)
    :: else
    fi
}

/* sc_drive_complete; `woken` is who has to be woken after it. */
inline complete(i)
{
    (!locked);
    assert(refs[i] > 0 && !told[i] && calls > 0);
    told[i] = true;
    calls--;
    if
    :: eligible??[eval(i)] ->
#ifndef FAULT_DONE_STAYS_QUEUED
        eligible??eval(i);
#endif
        store(i, DONE);
        woken = i
    :: confined??[eval(i)] ->
        confined??eval(i);
        store(i, DONE);
        woken = i
#if ERRANDS > 0
#ifndef FAULT_DONE_PASSES_THE_AWAY
    :: away[i] ->
        assert(word[i] == SUMMONED);
        word[i] = DONE
#endif
#endif
    :: else
    fi
}

#if ERRANDS > 0

/* -- errands: on the owner ------------------------------------------------ */

/* sc_drive_summon; `heard` unless the thread has given its call up. */
inline summon(i)
{
    atomic {
        !locked;
        assert(owner == me);
        if
        :: eligible??[eval(i)] ->
#ifndef FAULT_SUMMONED_STAYS_QUEUED
            eligible??eval(i);
#endif
            away[i] = true;
            store(i, SUMMONED);
            woken = i
        :: confined??[eval(i)] ->
            confined??eval(i);
            away[i] = true;
            store(i, SUMMONED);
            woken = i
        :: else
        fi;
        heard = !gone[i]
    }
#ifdef FAULT_NO_WAKE_FOR_ERRANDS
    woken = 0;
#endif
    if
    :: woken > 0 -> wake(woken); woken = 0
    :: else
    fi
}

inline push_errand(i)
{
    errands[i]++
}

/* sc_call_send_errand, once sc_lineage_call has seen that somebody waits. */
inline send_errand(i)
{
#ifdef FAULT_SUMMON_BEFORE_PUSH
    summon(i);
    push_errand(i);
#else
    push_errand(i);
#ifdef FAULT_NO_SUMMONS
    heard = true;
#else
    summon(i);
#endif
#endif
    atomic {
        if
#ifndef FAULT_GONE_UNSEEN
        :: !heard ->                /* refuse_errands */
            do
            :: errands[i] > 0 -> errands[i]--; ring!ANSWER(i)
            :: errands[i] == 0 -> break
            od
#endif
        :: else
        fi;
        heard = false;
        release(i)
    }
}
#endif

inline settle(i)
{
    assert(!done[i]);
    done[i] = true;
    complete(i)
}

/* sc_call_start. */
inline start_call(i)
{
    if
    :: started[i]                   /* given up before it began */
    :: else ->
        started[i] = true;
        if
        :: abandoned[i] ->
            over[i] = true;         /* there is no task */
            settle(i)
        :: else ->
            refs[i]++;              /* the task's */
            if
            :: kind[i] == K_TIMER || kind[i] == K_ORPHAN -> timer[i] = STEP(i)
            :: kind[i] == K_IO -> io_call = i; io_registered = true
            :: kind[i] == K_OP -> helper[i] = true
#if ERRANDS > 0
            :: kind[i] == K_LATE ->
                timer[i] = OUT(i);
                stepping[i] = true;
                ring!STEP(i)
#endif
            :: else -> stepping[i] = true; ring!STEP(i)
            fi;
            if
            :: cancelled[i] -> ask_task(i)
            :: else
            fi
        fi
    fi
}

/* A step of its task, which ends it; then sc_calls_collect. */
inline step_call(i)
{
    stepping[i] = false;
    if
    :: over[i]
    :: else ->
        if
        :: kind[i] == K_WIND && !refusing ->
            (!locked);
            refusing = true;        /* sc_drive_refuse */
            j = 1;
            do
            :: j <= NC ->
                if
                :: j != i && started[j] && !over[j] -> ask_task(j)
                :: else
                fi;
                j++
            :: else -> j = 0; break
            od;
            stepping[i] = true;
            ring!STEP(i)
#if ERRANDS > 0
        :: sends_errands(i) && sent[i] < ERRANDS && !done[i] &&
           !abandoned[i] && (!cancelled[i] || IN(STUBBORN, i)) ->
            sent[i]++;
            refs[i]++;
            sender = i;
            if
            :: sent[i] < ERRANDS -> stepping[i] = true; ring!STEP(i)
            :: else
            fi
#endif
        :: kind[i] == K_ORPHAN && !orphaned[i] ->   /* sc_call_make_orphan */
            abandoned[i] = true;
            orphaned[i] = true;
            tasks++;
            settle(i);
            ring!STEP(i)
        :: else ->
            over[i] = true;
            if
            :: kind[i] == K_TIMER && timer[i] == STEP(i) -> timer[i] = 0
            :: kind[i] == K_LATE && timer[i] == OUT(i) -> timer[i] = 0
            :: kind[i] == K_IO && io_call == i -> io_registered = false
            :: kind[i] == K_SPAWN && !cancelled[i] ->
                tasks++;
                timer[i] = TASK(i)
            :: else
            fi;
            if
            :: orphaned[i] -> tasks--
            :: else -> settle(i)
            fi;
            release(i)
        fi
    fi
}

/* The oldest handle, on its owner. */
inline run_handle()
{
    atomic {
        woken = 0;
        ring?h;
        assert(owner == me && inside == me);
        /* Nobody restricted runs another's call or a left task, but where no
         * pump is left to do so. */
        assert(!is_restricted(me) || !has_pump || h == START(me) ||
               h == STEP(me) || h == FOREIGN || (h == IO && io_call == me) ||
               h == ANSWER(me) || h == OUT(me));
        if
        :: h <= NC -> start_call(h); release(h)
        :: h > 8 && h <= 8 + NC -> step_call(h - 8)
        :: h >= 24 && h <= 24 + NC -> tasks--; served++
        :: h == IO ->
            io_queued = false;
            if
            :: io_data && io_registered ->
                io_data = false;
                ios++;
                if
                :: io_call > 0 -> step_call(io_call)
                :: io_call == 0 && ios == TASK_IO -> tasks--
                :: else
                fi
            :: else
            fi
        :: h == FOREIGN -> served++
#if ERRANDS > 0
        :: h > 48 && h <= 48 + NC ->
            answered[h - 48]++;
            if
            :: answered[h - 48] == ERRANDS && !stepping[h - 48] ->
                stepping[h - 48] = true;
                ring!STEP(h - 48)
            :: else
            fi
        :: h > 56 && h <= 56 + NC ->
            if
            :: !over[h - 56] && !done[h - 56] ->    /* sc_call_make_orphan */
                abandoned[h - 56] = true;
                orphaned[h - 56] = true;
                tasks++;
                settle(h - 56)
            :: else
            fi
#endif
        fi;
        h = 0
    }
    if
    :: woken > 0 -> wake(woken)
    :: else
    fi
#if ERRANDS > 0
    if
    :: sender > 0 -> woken = 0; send_errand(sender); sender = 0
    :: else
    fi
#endif
}

/* -- the loop's rounds --------------------------------------------------- */

inline next_timer()
{
    d_step {
        nt = 1;
        do
        :: nt < NOW_MAX + NC && timer[nt] == 0 -> nt++
        :: else -> break
        od;
        if
        :: timer[nt] == 0 -> nt = NEVER
        :: else
        fi
    }
}

inline take_timers()
{
    d_step {
        nt = 1;
        do
        :: nt <= now ->
            if
            :: timer[nt] > 0 -> ring!timer[nt]; timer[nt] = 0
            :: else
            fi;
            nt++
        :: else -> break
        od;
        nt = 0
    }
}

/* epoll_wait on the loop's descriptor, when it returns: edges once. */
inline take_events()
{
    ev = false;
    if
    :: io_registered && io_data && !io_queued -> io_queued = true; ring!IO
    :: else
    fi
}

/* sc_pump_unwatch */
inline disarm()
{
    if
    :: watch == ARMED -> outer_armed = false; watch = OFF
    :: else
    fi
}

/* sc_drive_unwatch */
inline unwatch()
{
#ifdef FAULT_NO_UNWATCH
    skip
#else
#ifdef FAULT_UNWATCH_LOOKS_FIRST
    if
    :: has_pump ->
        atomic { !locked; assert(has_pump); disarm() }
    :: else
    fi
#else
    atomic {
        !locked;
        if
        :: has_pump -> disarm()
        :: else
        fi
    }
#endif
#endif
}

/* sleep_until_event; `interrupted` where a signal handler has raised. */
inline sleep_until_event()
{
    next_timer();
#ifndef FAULT_SLEEP_UNANNOUNCED
    asleep = true;
#endif
#ifdef FAULT_SLEEP_WITHOUT_LOOKING
    look_again = false;
#else
    look_again = (len(inbox) > 0);
#endif
    unwatch()
    atomic {
        if
        :: inner_ready || look_again || (nt != NEVER && now >= nt) ->
            assert(owner == me && inside == me);
            take_events()
        :: signals > 0 && IN(SIGNALS, me) ->
            signals--;
            interrupted = true
        fi;
        look_again = false;
        nt = 0
    }
    asleep = false
}

/* -- the drive's transitions --------------------------------------------- */

/* sc_pump_watch, under the lock: two system calls. */
inline arm()
{
#ifndef FAULT_NO_TIMER
    if
    :: nt != NEVER && nt != timer_at ->
        atomic {
            timer_at = nt;
            timerfd_edge = (now >= nt);
            timerfd_at = (now >= nt -> NEVER : nt)
        }
    :: else
    fi;
#endif
#ifdef FAULT_NO_REARM
    skip
#else
    if
    :: watch != ARMED ->
        atomic {
            watch = ARMED;
            outer_armed = true
        }
    :: else
    fi
#endif
}

/* Why no look at the queue's order: heirs come from one class. */
inline oldest_eligible()
{
    heir = 0;
    if
    :: len(eligible) > 0 -> eligible?heir
#ifdef FAULT_HEIR_MAY_BE_RESTRICTED
    :: len(eligible) == 0 && len(confined) > 0 -> confined?heir
#else
#ifndef FAULT_NO_HEIR_WITHOUT_PUMP
    /* Nobody else is left to run its call. */
    :: len(eligible) == 0 && len(confined) > 0 && !has_pump -> confined?heir
#endif
#endif
    :: else
    fi
}

/* leave_locked, once the lock is there; gives it back. */
inline leave_locked()
{
    oldest_eligible();
    if
    :: heir > 0 ->
        assert(inside_call[heir]);
#if ERRANDS > 0
        assert(!away[heir]);
#endif
        owner = heir;
#ifdef FAULT_HEIR_STAYS_RESTRICTED
        owner_restricted = is_restricted(heir);
#else
        owner_restricted = false;
#endif
#ifndef FAULT_STORE_AFTER_UNLOCK
        store(heir, PROMOTED)
#endif
    :: heir == 0 && !has_pump -> owner = 0; owner_restricted = false
    :: heir == 0 && has_pump && due ->
        owner_restricted = false;
#ifdef FAULT_DUE_IS_FREED
        arm();
        owner = 0;
        asleep = true
#else
        owner = PUMP;
#ifndef FAULT_DUE_WITHOUT_KICK
        kick_edge = true
#endif
#endif
    :: else -> locked = true; holds = true
    fi
}

inline leave_free()
{
    if
    :: holds ->
        asleep = true;
#ifndef FAULT_LEAVE_WITHOUT_LOOKING
        if
        :: len(inbox) > 0 -> asleep = false; due = true
        :: len(inbox) == 0
        fi;
#endif
        if
        :: due ->
            atomic {
                owner = PUMP;
                owner_restricted = false;
                kick_edge = true;
                locked = false
            }
        :: else ->
            arm();
            atomic {
                owner = 0;
                owner_restricted = false;
                locked = false
            }
        fi
    :: else
    fi
}

#ifdef FAULT_STORE_AFTER_UNLOCK
#define STORE_LATE if :: heir > 0 -> atomic { store(heir, PROMOTED) } :: else fi;
#else
#define STORE_LATE
#endif

/* The lock is taken by `atomic { !locked; ...`. */
#define LEAVE(first)            \
    atomic {                    \
        !locked;                \
        first;                  \
        leave_locked()          \
    }                           \
    if                          \
    :: heir > 0 ->              \
        STORE_LATE              \
        wake(heir)              \
    :: heir == 0 && holds ->    \
        leave_free()            \
    :: else                     \
    fi;                         \
    atomic { holds = false; due = false; nt = 0; heir = 0 }

/* sc_drive_leave */
inline leave()
{
    next_timer();
    due = (len(ring) > 0);
    go_out();
    LEAVE(skip)
}

/* sc_drive_requeue */
inline requeue()
{
    next_timer();
    due = true;
    go_out();
    LEAVE(word[me] = WAITING; append())
}

#if ERRANDS > 0
/* sc_drive_step_out */
inline step_out()
{
    next_timer();
    due = (len(ring) > 0);
    go_out();
#ifdef FAULT_STEP_OUT_UNMARKED
    LEAVE(word[me] = SUMMONED)
#else
    LEAVE(away[me] = true; word[me] = SUMMONED)
#endif
}

#ifdef FAULT_STEP_IN_LOOKS_UNLOCKED
#define STEP_IN_LOOK seen = (errands[me] == 0)
#define STEP_IN_LAST seen
#else
#define STEP_IN_LOOK skip
#ifdef FAULT_STEP_IN_WITHOUT_LOOKING
#define STEP_IN_LAST true
#else
#define STEP_IN_LAST (errands[me] == 0)
#endif
#endif

#ifdef FAULT_AWAY_IS_NO_LAST_RESORT
#define LAST_RESORT false
#else
#define LAST_RESORT (!has_pump)
#endif

/* sc_drive_step_in; the word says which. */
inline step_in()
{
    STEP_IN_LOOK;
    atomic {
        !locked;
        if
        :: word[me] == SUMMONED && STEP_IN_LAST ->
            away[me] = false;
            if
            :: owner == 0 && (!is_restricted(me) || LAST_RESORT ||
                              (calls == 1 && tasks == 0)) ->
                word[me] = PROMOTED;
                owner = me;
                owner_restricted = (is_restricted(me) && !LAST_RESORT);
                asleep = false
            :: else ->
                word[me] = WAITING;
                append()
            fi
        :: else
        fi
    }
}
#endif

inline append()
{
    assert(!told[me]);              /* a call that is over waits for nothing */
    if
    :: is_restricted(me) -> confined!me
    :: else -> eligible!me
    fi
}

/* sc_drive_enter; `mine` is its answer. */
inline enter()
{
    atomic {
        !locked;
#ifndef FAULT_NO_REFUSAL
        if
        :: refusing -> word[me] = DONE
        :: else ->
#else
        if
        :: true ->
#endif
            if
#ifdef FAULT_RESTRICTED_TAKES_ANY
            :: owner == 0 ->
#else
            :: owner == 0 && ((calls == 0 && tasks == 0) ||
                              !is_restricted(me)) ->
#endif
                mine = true;
                owner = me;
                owner_restricted = is_restricted(me);
#ifndef FAULT_ENTER_KEEPS_ANNOUNCEMENT
                asleep = false;
#endif
            :: else -> append()
            fi;
            calls++
        fi
    }
}

/* sc_drive_withdraw */
inline withdraw()
{
    atomic {
        !locked;
        if
        :: eligible??[eval(me)] -> eligible??eval(me)
        :: confined??[eval(me)] -> confined??eval(me)
        :: else ->
#ifdef FAULT_PROMOTED_JUST_GOES
            skip
#else
            mine = (owner == me)
#endif
        fi;
#if ERRANDS > 0
        gone[me] = !mine
#endif
    }
}

/* -- a caller: sc_call_run ----------------------------------------------- */

/* sc_drive_wait, then the word: `mine`, or `finished`, or `gives_up`. */
inline wait_turn()
{
    do
    :: word[me] != WAITING -> break
    :: word[me] == WAITING ->
        if
        :: is_restricted(me) ->         /* ppoll: the eventfd keeps it */
            if
            :: event[me] -> event[me] = false
            :: IN(IMPATIENT, me) && patience -> patience = false; break
            :: IN(SIGNALS, me) && signals > 0 ->
                signals--; interrupted = true; break
            fi
        :: else ->                      /* futex: compare, and sleep */
            atomic {
                if
                :: word[me] == WAITING -> sleeping[me] = true
                :: else
                fi
            }
            if
            :: !sleeping[me]
            :: IN(IMPATIENT, me) && patience ->
                atomic { patience = false; sleeping[me] = false }
                break
            :: IN(SIGNALS, me) && signals > 0 ->
                atomic {
                    signals--; interrupted = true; sleeping[me] = false
                }
                break
            fi
        fi
    od;
    if
    :: interrupted
    :: !interrupted && word[me] == DONE -> finished = true
#if ERRANDS > 0
    :: !interrupted && word[me] == SUMMONED -> called = true
#endif
    :: !interrupted && word[me] == PROMOTED -> mine = true; come_in()
    :: !interrupted && word[me] == WAITING ->
        gives_up = true
    fi
}

/* is_over: after its own call an owner may go on while there is work and a
 * waiter; the real one does so for a while. */
inline look_whether_over()
{
    if
    :: !done[me]
    :: done[me] && (owner_restricted || len(eligible) == 0 ||
                    (len(ring) == 0 && len(inbox) == 0)) -> finished = true
    :: done[me] && !owner_restricted && len(eligible) > 0 &&
       (len(ring) > 0 || len(inbox) > 0) -> finished = true
    :: done[me] && !owner_restricted && len(eligible) > 0 &&
       (len(ring) > 0 || len(inbox) > 0) -> skip
    fi
}

#ifdef FAULT_RESTRICTED_STAYS
#define must_yield false
#else
#define must_yield (owner_restricted && calls > 1)
#endif

/* sc_loop_drive: until `finished`, `yields` or `interrupted`. */
inline drive()
{
    do
    :: true ->
        look_whether_over();
        if
        :: finished -> break
        :: else
        fi;
#if ERRANDS > 0
#ifndef FAULT_OWNER_OVERLOOKS_ERRANDS
        if
#ifdef FAULT_REQUEUE_WITHOUT_LOOKING
        :: !must_yield && !done[me] && errands[me] > 0 -> called = true; break
#else
        :: !done[me] && errands[me] > 0 -> called = true; break
#endif
        :: else
        fi;
#endif
#endif
        if
        :: must_yield -> yields = true; break
        :: else
        fi;
        take_inbox();
        next_timer();
        if
        :: len(ring) > 0 || done[me] || (nt != NEVER && now >= nt) ->
            nt = 0;
            if                          /* now and then */
            :: atomic { inner_ready -> take_events() }
            :: true
            fi
        :: else ->
            sleep_until_event();
            if
            :: interrupted -> break
            :: else
            fi;
            take_inbox()
        fi;
        take_timers();
        left = len(ring);
        do
        :: left > 0 ->
            if
            :: must_yield -> break
            :: else
            fi;
            run_handle();
            left--;
            look_whether_over();
            if
            :: finished -> break
#if ERRANDS > 0
#ifndef FAULT_OWNER_OVERLOOKS_ERRANDS
            :: !finished && errands[me] > 0 -> break
#endif
#endif
            :: else
            fi
        :: left == 0 -> break
        od;
        left = 0;
        if
        :: finished -> break
        :: else
        fi
    od;
    left = 0
}

#if ERRANDS > 0
/* Each is answered by a post, as call_soon_threadsafe does it. */
inline take_errands()
{
    atomic { taken = errands[me]; errands[me] = 0 }
    do
    :: taken > 0 ->
        assert(inside != me && owner != me);
        post(ANSWER(me));
        taken--
    :: taken == 0 -> break
    od
}

inline run_errands()
{
    do
    :: true ->
        assert(refs[me] > 0);
        take_errands();
        step_in();
        if
        :: word[me] == PROMOTED -> mine = true; come_in(); break
        :: word[me] == WAITING -> break
        :: word[me] == DONE -> finished = true; break
        :: word[me] == SUMMONED
        fi
    od
}
#endif

/* give_up, but for its sc_drive_leave, which comes last where `mine`. */
inline give_up()
{
    if
    :: !mine ->
        withdraw();
        if
        :: mine -> come_in()
        :: else
        fi
    :: else
    fi;
    if
    :: mine ->
        atomic {
            woken = 0;
            if
            :: done[me]
#ifndef FAULT_ORPHAN_BEFORE_START
            :: !done[me] && !started[me] ->
                abandoned[me] = true;
                start_call(me)
#endif
            :: else ->                  /* sc_call_make_orphan */
                abandoned[me] = true;
                orphaned[me] = true;
                tasks++;
                settle(me)
            fi
        }
    :: !mine && word[me] == DONE
    :: else -> abandoned[me] = true
    fi
}

/* sc_drive_reclaim, once the pump has stopped. */
inline reclaim()
{
    atomic {
        !locked;
        if
        :: calls > 0                    /* a caller is still in it */
        :: calls == 0 && owner == 0 -> closed = true
        :: calls == 0 && owner > 0 ->
#ifdef FAULT_RECLAIM_TAKES
            owner = 0;
            closed = true
#else
            word[me] = WAITING;         /* wait for it to leave */
            refs[me]++;
            inside_call[me] = true;
            eligible!me
#endif
        fi;
        assert(!closed || inside == 0)
    }
    if
    :: !closed && inside_call[me] ->
        word[me] == PROMOTED;
        atomic {
            assert(owner == me && inside == 0);
            owner = 0;
            closed = true;
            inside_call[me] = false;
            refs[me]--
        }
    :: else
    fi
}

proctype Caller(byte me)
{
    byte h, j, left, nt, heir, woken, signals = SIGNAL_COUNT, round;
    bool mine, fresh, finished, yields, interrupted, before, gives_up;
    bool due, holds, was_asleep, look_again, patience = true;
#if ERRANDS > 0
    byte sender, taken;
    bool heard, called, seen;
#endif

    LATE_PUMP == 0 || has_pump;         /* else nobody knows the loop yet */
    do
    :: round < ROUNDS ->
        atomic {
            /* A new call: but its memory, should the old one still be
             * used, is not this one's. */
            refs[me] == 0;
            word[me] = WAITING;
            refs[me] = 1;
            inside_call[me] = true;
            started[me] = false; over[me] = false; done[me] = false;
            abandoned[me] = false; orphaned[me] = false;
            cancelled[me] = false; told[me] = false; before = false;
            finished = false; gives_up = false; mine = false
        }
        enter();
        if
        :: mine -> come_in(); fresh = true
        :: !mine && word[me] == DONE ->
            assert(!started[me]);
            finished = true
        :: else ->
            assert(calls > 0);
            atomic { refs[me]++ }
            post(START(me))
        fi;
        do
        :: finished || gives_up -> break
        :: !finished && !gives_up && mine ->
            if
            :: fresh ->
                atomic { woken = 0; fresh = false; start_call(me) }
            :: else
            fi;
            drive();
            if
            :: finished
#if ERRANDS > 0
            :: called -> called = false; step_out(); mine = false; run_errands()
#endif
            :: yields -> yields = false; requeue(); mine = false
            :: interrupted && !before ->
                atomic {
                    interrupted = false;
                    before = true;
                    ask_task(me)
                }
            :: interrupted && before -> gives_up = true
            fi
        :: !finished && !gives_up && !mine ->
            wait_turn();
            if
            :: gives_up
#if ERRANDS > 0
            :: called -> called = false; run_errands()
#endif
            :: interrupted && !before ->
                interrupted = false;
                before = true;
                if
                :: atomic { !cancel_posted[me] -> cancel_posted[me] = true;
                            refs[me]++ }
                    post(CANCEL(me))
                :: else
                fi
            :: interrupted && before -> gives_up = true
            :: else
            fi
        od;
        interrupted = false;
        if
        :: gives_up -> give_up()
        :: else
        fi;
        if
        :: mine -> leave(); mine = false
        :: else
        fi;
#if ERRANDS > 0
        take_errands();             /* refuse_errands */
#endif
        atomic {
            assert(inside != me && owner != me);
            assert(!(eligible??[eval(me)]) && !(confined??[eval(me)]));
            assert(done[me] || gives_up || !started[me]);
            inside_call[me] = false;
            release(me);
            round++
        }
    :: else -> break
    od;
    if
    :: kind[me] == K_WIND ->            /* bridge_close_end */
        stop = true;
        kick_edge = true;
        ended;
        reclaim()
    :: else
    fi;
    returned++
}

/* -- the pump ------------------------------------------------------------ */

/* sc_drive_begin_watch, the lock held. */
inline begin_watch()
{
    has_pump = true;
    if
    :: owner == 0 ->
        asleep = true;
        nt = NEVER;
        arm();
#ifndef FAULT_BEGIN_WITHOUT_LOOKING
        if
        :: len(inbox) > 0 -> kick_edge = true
        :: len(inbox) == 0
        fi
#endif
    :: else
    fi;
    locked = false
}

/* sc_loop_run_batch */
inline run_due()
{
    do
    :: true ->
        take_inbox();
        atomic { take_events() }
        take_timers();
        left = len(ring);
        do
        :: left > 0 && len(eligible) == 0 -> run_handle(); left--
        :: left > 0 && len(eligible) > 0 -> left = 0
        :: left == 0 -> break
        od;
        if
        :: len(eligible) > 0 -> break
        :: else
        fi;
        next_timer();
        if
        :: len(ring) == 0 && len(inbox) == 0 && (nt == NEVER || now < nt) ->
            break
        :: else
        fi
    od;
    nt = 0
}

#ifdef FAULT_LOOK_UNLOCKED
#define LOOK_LOCK atomic { seen = owner }
#define LOOK_OWNER seen
#else
#define LOOK_LOCK skip
#define LOOK_OWNER owner
#endif

proctype Pump()
{
    byte h, j, left, nt, heir, woken, seen;
    bool due, holds, got_watch, got_timer, mine;
    byte me = PUMP;
#if ERRANDS > 0
    byte sender;
    bool heard;
#endif

    do
    :: stop -> break
    :: else ->
end:    atomic {
            (outer_armed && inner_ready) || timerfd_edge || kick_edge;
            got_watch = outer_armed && inner_ready;
            got_timer = timerfd_edge;
            if
            :: got_watch -> outer_armed = false
            :: else
            fi;
            timerfd_edge = false;
            kick_edge = false
        }
        LOOK_LOCK;
        atomic {                        /* look, sc_drive_take_free */
            !locked;
#ifndef FAULT_TIMER_AT_STAYS
            if
            :: got_timer -> timer_at = NEVER
            :: else
            fi;
#endif
#ifndef FAULT_WATCH_STAYS_ARMED
            if
            :: got_watch -> watch = FIRED
            :: else
            fi;
#endif
            got_watch = false;
            got_timer = false;
            if
            :: LOOK_OWNER == 0 ->
                owner = PUMP;
                owner_restricted = false;
                asleep = false;
                mine = true
            :: LOOK_OWNER == PUMP -> mine = true
            :: else -> mine = false
            fi
        }
        if
        :: mine ->
            come_in();
            run_due();
            mine = false;
            leave()
        :: else
        fi
    od;
    /* sc_drive_end_watch */
    atomic {
        !locked;
        has_pump = false;
        due = false;
        heir = 0;
        if
#ifndef FAULT_END_KEEPS_THE_LOOP
#ifdef FAULT_NO_HEIR_WITHOUT_PUMP
        :: owner == PUMP -> leave_locked()
#else
        :: owner == PUMP || owner == 0 -> leave_locked()
#endif
#endif
        :: else
        fi
    }
    if
    :: heir > 0 ->
        STORE_LATE
        wake(heir)
    :: else
    fi;
    ended = true
}

/* -- the others ---------------------------------------------------------- */

/* call_soon_threadsafe from a thread that never drives. */
proctype Producer()
{
    bool was_asleep;
    post(FOREIGN)
}

/* What a K_OP call waits for. */
proctype Helper(byte i)
{
    bool was_asleep;
end:                                    /* its call may never begin */
    helper[i];
    post(STEP(i))
}

proctype Clock()
{
    do
    :: now < NOW_MAX ->
        atomic {
            now++;
            if
            :: timerfd_at != NEVER && now >= timerfd_at ->
                timerfd_at = NEVER;
                timerfd_edge = true
            :: else
            fi
        }
    :: else -> break
    od
}

proctype Network(byte times)
{
    do
    :: times > 0 ->
        atomic { !io_data -> io_data = true }
        times--
    :: else -> break
    od
}

/* When no thread can go on: whatever was to be run has been run, and the loop
 * lies as a leaver must leave it. */
proctype Monitor()
{
    byte t;
    timeout ->
    atomic {
        assert(returned == NC);
#if ERRANDS > 0
        t = 1;
        do
        :: t <= NC ->
            assert(errands[t] == 0);    /* each was run or refused */
            assert(!has_pump || !sends_errands(t) || answered[t] == sent[t]);
            t++
        :: else -> break
        od;
#endif
        assert(calls == 0 || closed || !has_pump);
        assert(len(eligible) == 0 && len(confined) == 0);
        assert(inside == 0 && owner == 0 && !locked);
        if
        :: has_pump ->
            assert(tasks == 0);
            assert(len(inbox) == 0 && len(ring) == 0);
            assert(asleep && watch == ARMED && outer_armed && !inner_ready);
            t = 1;
            do
            :: t < NOW_MAX + NC + 1 -> assert(timer[t] == 0); t++
            :: else -> break
            od;
            assert(served >= PRODUCERS + (TASK_TIMER > 0) && ios >= TASK_IO);
            t = 1;
            do
            :: t <= NC -> assert(refs[t] == 0); t++
            :: else -> break
            od
        :: else
        fi
    }
}

#if LATE_PUMP > 0
/* sc_loop_start_pump; or a pump that is given to a free loop. */
proctype Starter()
{
    byte h, j, left, nt, heir, woken;
    bool due, holds;
    byte me = STARTER;
#if ERRANDS > 0
    byte sender;
    bool heard;
#endif

    atomic { !locked; locked = true; run Pump() }
    begin_watch();
    if
    :: owner == STARTER ->
        come_in();
        run_due();
        leave()
    :: else
    fi
}
#endif

init {
    byte i;
    byte kinds[NC + 1] = { 0, KINDS };
    atomic {
        i = 1;
        do
        :: i <= NC ->
            kind[i] = kinds[i];
            kinds[i] = 0;
            if
            :: kind[i] == K_OP -> run Helper(i)
            :: else
            fi;
            i++
        :: else -> break
        od;
        if
        :: TASK_TIMER > 0 -> tasks++; timer[TASK_TIMER] = TASK(0)
        :: else
        fi;
        if
        :: TASK_IO > 0 -> tasks++; io_registered = true
        :: else
        fi;
#if LATE_PUMP == 0
        has_pump = true;                /* as its starter leaves it */
        asleep = true;
        watch = ARMED;
        outer_armed = true;
        timer_at = TASK_TIMER;
        timerfd_at = TASK_TIMER;
        run Pump();
#else
        owner = (LATE_PUMP == 2 -> STARTER : 0);
        run Starter();
#endif
        i = 1;
        do
        :: i <= NC -> run Caller(i); i++
        :: else -> break
        od;
        i = 0;
        do
        :: i < PRODUCERS -> run Producer(); i++
        :: else -> break
        od;
        i = 0;
        run Clock();
        if
        :: IO_EVENTS > 0 -> run Network(IO_EVENTS)
        :: else
        fi;
        run Monitor()
    }
}
