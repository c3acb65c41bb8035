// kilntainers-init: PID 1 of a sandbox. It runs commands for the host at the
// other end of its stdin and stdout, and kills them exactly.
//
//	host ══ stdin, stdout ══ PID 1 ─┬─ supervisor ── command ── its children …
//	                                ├─ supervisor ── command
//	                                └─ what earlier commands left running
//
//	main.c     start, event loop, signals, end
//	channel.c  frames in and out
//	exec.c     the commands: a state machine for each, and their pipes
//	spawn.c    the processes: supervisor and command, what a command is given
//	tree.c     finding and killing processes
//	memory.c   the kernel's OOM killer: whom it takes, what it took
//
// One thread and one poll loop. Everything inside the sandbox may be hostile
// to this program, so it
//
//   - is not dumpable: no command can open its memory or its descriptors, or
//     trace it, unless it has CAP_SYS_PTRACE;
//   - keeps every descriptor of its own out of its children;
//   - has bounded memory, whatever the commands and the host do.
//
// The host trusts it no more than the rest of the sandbox: see ../frame.go.
#ifndef INIT_H
#define INIT_H

#include "protocol.h"

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

// The exit status of the program.
enum {
	END_OK = 0,        // end of the channel, BYE, or SIGTERM from outside
	END_USAGE = 64,    // wrong arguments
	END_WRITE = 70,    // the channel could not be written
	END_READ = 71,     // the channel could not be read
	END_PROTOCOL = 72, // the host broke the protocol
	END_SYSTEM = 74,   // the kernel refused what cannot be done without
	END_SILENCE = 75,  // the host was silent for too long
	END_NOT_INIT = 76  // not PID 1
};

// Times are microseconds of the monotonic clock.
#define MS 1000ull
#define SECOND 1000000ull
#define NEVER UINT64_MAX

// main.c
uint64_t clock_us(void);
void say(int fd, ...);                           // strings up to a NULL, in one write
_Noreturn void end(int status, const char *why); // says why on stderr
void reap(void);                                 // takes note of all that died

// channel.c
void channel_open(void);
bool channel_wants(void);           // can take input; if not, frames wait for room to answer
void channel_read(bool readable);   // hands on what came, frame by frame
void channel_send(uint8_t type, uint32_t id, const void *payload, size_t n);
uint8_t *channel_data(void);        // where up to MAX_DATA bytes may be put, or NULL: no room
void channel_send_data(uint8_t type, uint32_t id, size_t n); // sends the n bytes put there
void channel_flush(void);           // writes what is due
uint64_t channel_due(void);         // when something is
bool channel_stuck(void);           // the host has to read first: wait for POLLOUT
uint64_t channel_heard(void);       // when the host was heard last
uint32_t get32(const uint8_t *p);
void put32(uint8_t *p, uint32_t v);

// exec.c. A frame for an id that does not run comes late: it is ignored. At
// most 4 * MAX_EXECS + MAX_DRAINS descriptors: fewer than the usual 1024.
enum { MAX_DRAINS = 448, MAX_WATCHED = 4 * MAX_EXECS + MAX_DRAINS };

// exec_start and exec_stdin return NULL, or what the host did that it may not;
// then they did nothing.
const char *exec_start(uint32_t id, uint8_t *payload, size_t n);
const char *exec_stdin(uint32_t id, const uint8_t *payload, size_t n);
void exec_stdin_eof(uint32_t id);
void exec_kill(uint32_t id);
void exec_let(uint32_t id);
void execs_kill(void); // KILL for all
bool execs_none(void); // there is none left
size_t execs_watch(struct pollfd *fds);           // fills in at most MAX_WATCHED
void execs_serve(const struct pollfd *fds);       // the same ones, polled
uint64_t execs_due(void);                         // when to serve at the latest
void execs_reaped(pid_t pid, bool killed);        // pid is gone; killed by a signal?

// What is to become of a process: for a supervisor, of what is below it; for
// any other, of itself.
enum fate { STRAY, SPARED, DOOMED };
enum fate execs_fate(pid_t pid); // STRAY if it supervises no command

// spawn.c
struct command {
	uint32_t flags;      // of EXEC
	char *dir;           // "" is ours
	char **argv, **env;  // up to a NULL; env comes on top of our own
	size_t argc;
	int in, out, err;    // its ends of the pipes; in -1 is an empty stdin
	int report;          // the supervisor's end
};

struct report { // what a supervisor says when the command ended
	int32_t code; // its exit status, or 128 + the signal that killed it
	int32_t left; // 1 when processes that it started are still there
};

pid_t spawn(const struct command *c); // the supervisor, or -1 and errno
void close_from(int fd);              // closes it and all above

// tree.c
bool tree_kill(bool strays); // all that is doomed, and strays too; false: not done, call again

// memory.c
void memory_open(void);
uint64_t memory_kills(void); // the kernel's OOM kills in this sandbox, if it counts them
void memory_offer(void);     // makes the calling process go before PID 1

#endif
