/* Request ids: their form, their order, and forks. */
#include <string.h>
#include <sys/wait.h>

#include "check.h"
#include "middleware/request_id.h"

#define MOMENT UINT64_C(0x0192ABCDEF01)

static void
make(char *id, uint64_t milliseconds)
{
    memset(id, '!', SC_REQUEST_ID_LENGTH);
    id[SC_REQUEST_ID_LENGTH] = '\0';
    sc_request_id_make_at(id, milliseconds);
}

static void
test_form(void)
{
    char id[SC_REQUEST_ID_LENGTH + 2] = {0};
    id[SC_REQUEST_ID_LENGTH + 1] = '#';
    make(id, MOMENT);
    CHECK(strlen(id) == SC_REQUEST_ID_LENGTH);
    CHECK(id[SC_REQUEST_ID_LENGTH + 1] == '#');
    CHECK(memcmp(id, "0192abcd-ef01-7", 15) == 0);
    CHECK(strchr("89ab", id[19]) != NULL);
    for (int i = 0; i < SC_REQUEST_ID_LENGTH; i++) {
        if (i == 8 || i == 13 || i == 18 || i == 23) {
            CHECK(id[i] == '-');
        }
        else {
            CHECK(strchr("0123456789abcdef", id[i]) != NULL);
        }
    }
}

/* More than one millisecond can count, all at one moment; then the clock is
 * set back by a second. */
static void
test_order(void)
{
    char before[SC_REQUEST_ID_LENGTH + 1], id[SC_REQUEST_ID_LENGTH + 1];
    make(before, MOMENT + 1);
    for (int i = 0; i < 20000; i++) {
        make(id, i < 10000 ? MOMENT + 1 : MOMENT - 1000);
        CHECK(strcmp(before, id) < 0);
        memcpy(before, id, sizeof(id));
    }
    make(id, MOMENT + 1000000);
    CHECK(memcmp(id, "0192abdd-3141-7", 15) == 0);
}

/* Parent and child draw from pools of their own: at one moment, after the
 * same history, they make different ids. */
static void
test_fork(void)
{
    char mine[SC_REQUEST_ID_LENGTH + 1], theirs[SC_REQUEST_ID_LENGTH + 1];
    int ends[2];
    CHECK(pipe(ends) == 0);
    make(mine, MOMENT + 2000000);
    pid_t child = fork();
    CHECK(child >= 0);
    make(mine, MOMENT + 3000000);
    if (child == 0) {
        _exit(write(ends[1], mine, SC_REQUEST_ID_LENGTH) !=
              SC_REQUEST_ID_LENGTH);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    theirs[SC_REQUEST_ID_LENGTH] = '\0';
    CHECK(read(ends[0], theirs, SC_REQUEST_ID_LENGTH) == SC_REQUEST_ID_LENGTH);
    CHECK(memcmp(mine, theirs, 13) == 0);
    CHECK(strcmp(mine + 19, theirs + 19) != 0);
}

int
main(void)
{
    test_form();
    test_order();
    test_fork();
    return 0;
}
