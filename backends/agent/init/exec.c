// The commands: what the host may ask of each, its pipes, and how it ends.
//
//	FREE ──EXEC──► RUNNING ──it ended──► ENDED ──output is in──► FREE, says EXIT
//	                  │                    │  └──and left some──► LEFT, says EXIT
//	                  └────────KILL────────┴─────────────┐         │ │
//	                                                     ▼         │ └─LET──► FREE
//	                   FREE, says EXIT ◄──all gone── KILLING ◄─KILL┘
//
// A command that ends by itself may leave processes running. Until the host
// has seen all of its output it may still want them dead, so EXIT tells it of
// them, and their supervisor holds them together until it says LET or KILL.
#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define DRAIN (20 * MS)     // for output that comes after the end of a command
#define KILL_AGAIN (5 * MS) // between two looks at a tree that does not die
#define LAST_RESORT SECOND  // until everything is killed that runs in here

enum { KILLED = 128 + SIGKILL };

struct pipe_in {          // a command's stdin
	int fd;           // -1 once closed
	bool eof;         // the host has sent all of it
	uint32_t window;  // bytes that the host may still send
	uint32_t written; // bytes written since the last CREDIT
	uint8_t *buf;     // STDIN_WINDOW bytes while the pipe is full, else NULL
	size_t from, to;  // what is in buf
};

struct pipe_out {   // its stdout or stderr
	int fd;     // -1 once closed
	int before; // ENDED: bytes in the pipe that are surely the command's own
};

static struct exec {
	enum { FREE, RUNNING, ENDED, LEFT, KILLING } state;
	uint32_t id;
	pid_t supervisor; // 0 once it is gone, or none of our business
	bool tampered;    // somebody inside killed it: what it had below is among the strays
	int report;       // the pipe from it; -1 once read
	struct pipe_in in;
	struct pipe_out out, err;
	int code;         // ENDED
	bool left;        // ENDED: it started processes that are still there
	uint64_t due;     // ENDED: the end of DRAIN; KILLING: time for the last resort
	uint64_t kills;   // memory_kills() when it started
	bool alone;       // nothing else ran beside it
} execs[MAX_EXECS];

static int top; // slots above are FREE

static uint64_t kill_due = NEVER; // when to look again after those that are KILLING

// Pipes of ended commands that background processes hold open. They are read
// to nowhere: a full or a closed pipe would stop or kill a server that logs.
// When there are too many the oldest is closed.
static int drains[MAX_DRAINS];
static int n_drains;

static struct exec *find(uint32_t id)
{
	for (int i = 0; i < top; i++)
		if (execs[i].state != FREE && execs[i].id == id)
			return &execs[i];
	return NULL;
}

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static void send_exit(uint32_t id, int code, uint32_t flags)
{
	uint8_t p[8];
	put32(p, (uint32_t)code);
	put32(p + 4, flags);
	channel_send(EXIT, id, p, sizeof p);
}

// ---- start

static void refuse(uint32_t id, const char *why)
{
	char text[128] = "kilntainers: cannot start a process: ";
	strncat(text, why, sizeof text - strlen(text) - 2);
	strcat(text, "\n");
	channel_send(STDERR, id, text, strlen(text));
	send_exit(id, 126, 0);
}

// parse takes an EXEC apart: u32 flags, argc, envc, then the directory, the
// arguments and the variables, each up to its 0 byte. The strings stay where
// they are. It returns NULL, or what is wrong. What does not end in a 0 byte is
// wrong, and has to be: see frame in channel.c.
static const char *parse(struct command *c, uint8_t *payload, size_t n)
{
	static char *strings[MAX_STRINGS + 2];
	*c = (struct command){.flags = get32(payload), .argc = get32(payload + 4)};
	size_t envc = get32(payload + 8);
	if (c->flags & ~(uint32_t)(EXEC_SHELL | EXEC_STDIN) || c->argc < 1 || c->argc > MAX_STRINGS ||
	    envc > MAX_STRINGS - c->argc)
		return "the host sent an EXEC out of bounds";

	char *s = (char *)payload + 12, *stop = (char *)payload + n;
	c->dir = s;
	c->argv = strings;
	c->env = strings + c->argc + 1;
	for (size_t i = 0; i < 1 + c->argc + envc; i++) {
		if (i > c->argc)
			c->env[i - 1 - c->argc] = s;
		else if (i > 0)
			c->argv[i - 1] = s;
		char *zero = memchr(s, 0, (size_t)(stop - s));
		if (!zero)
			return "the host sent an EXEC with too few strings";
		s = zero + 1;
	}
	if (s != stop)
		return "the host sent an EXEC with too many strings";
	c->argv[c->argc] = c->env[envc] = NULL;
	return NULL;
}

const char *exec_start(uint32_t id, uint8_t *payload, size_t n)
{
	struct command c;
	const char *wrong = parse(&c, payload, n);
	if (wrong)
		return wrong;
	if (find(id))
		return "the host sent an EXEC with an id in use";
	struct exec *x = execs;
	while (x < execs + top && x->state != FREE)
		x++;
	if (x == execs + MAX_EXECS) {
		refuse(id, "too many commands at once");
		return NULL;
	}

	uint64_t kills = memory_kills();
	int in[2] = {-1, -1}, out[2] = {-1, -1}, err[2] = {-1, -1}, report[2] = {-1, -1};
	pid_t supervisor = -1;
	if ((!(c.flags & EXEC_STDIN) || pipe2(in, O_CLOEXEC) == 0) && pipe2(out, O_CLOEXEC) == 0 &&
	    pipe2(err, O_CLOEXEC) == 0 && pipe2(report, O_CLOEXEC) == 0) {
		c.in = in[0];
		c.out = out[1];
		c.err = err[1];
		c.report = report[1];
		supervisor = spawn(&c);
	}
	int error = errno;
	close_fd(&in[0]);
	close_fd(&out[1]);
	close_fd(&err[1]);
	close_fd(&report[1]);
	if (supervisor < 0) {
		close_fd(&in[1]);
		close_fd(&out[0]);
		close_fd(&err[0]);
		close_fd(&report[0]);
		refuse(id, strerror(error));
		return NULL;
	}
	if (in[1] >= 0)
		fcntl(in[1], F_SETFL, O_NONBLOCK); // the others are read only when poll says so

	bool alone = true;
	for (struct exec *y = execs; y < execs + top; y++)
		if (y->state != FREE)
			alone = y->alone = false;
	*x = (struct exec){
		.state = RUNNING,
		.id = id,
		.supervisor = supervisor,
		.report = report[0],
		.in = {.fd = in[1], .window = STDIN_WINDOW},
		.out = {.fd = out[0]},
		.err = {.fd = err[0]},
		.kills = kills,
		.alone = alone,
	};
	if (x == execs + top)
		top++;
	return NULL;
}

// ---- stdin

static void close_in(struct pipe_in *in)
{
	close_fd(&in->fd);
	free(in->buf);
	in->buf = NULL;
	in->from = in->to = 0;
}

// feed writes what it can of the n bytes at p to x's stdin and returns how
// many it wrote.
static size_t feed(struct exec *x, const uint8_t *p, size_t n)
{
	ssize_t w = write(x->in.fd, p, n);
	if (w < 0 && errno == EAGAIN)
		return 0;
	if (w < 0) { // EPIPE: nobody reads it any more
		close_in(&x->in);
		if (!x->in.eof)
			channel_send(STDIN_CLOSED, x->id, NULL, 0);
		return 0;
	}
	x->in.written += (uint32_t)w;
	if (!x->in.eof && x->in.written >= STDIN_WINDOW / 4) {
		uint8_t p4[4];
		put32(p4, x->in.written);
		channel_send(CREDIT, x->id, p4, sizeof p4);
		x->in.window += x->in.written;
		x->in.written = 0;
	}
	return (size_t)w;
}

const char *exec_stdin(uint32_t id, const uint8_t *payload, size_t n)
{
	struct exec *x = find(id);
	if (!x || x->state == KILLING)
		return NULL;
	struct pipe_in *in = &x->in;
	if (in->eof || n > in->window)
		return "the host sent more stdin than it may";
	in->window -= (uint32_t)n;
	if (in->fd >= 0 && in->from == in->to) {
		size_t w = feed(x, payload, n);
		payload += w;
		n -= w;
	}
	if (in->fd < 0 || n == 0)
		return NULL;
	if (!in->buf && !(in->buf = malloc(STDIN_WINDOW)))
		end(END_SYSTEM, "out of memory");
	memmove(in->buf, in->buf + in->from, in->to - in->from);
	in->to -= in->from;
	in->from = 0;
	memcpy(in->buf + in->to, payload, n);
	in->to += n;
	return NULL;
}

void exec_stdin_eof(uint32_t id)
{
	struct exec *x = find(id);
	if (!x || x->state == KILLING)
		return;
	x->in.eof = true;
	if (x->in.from == x->in.to)
		close_in(&x->in);
}

static void serve_in(struct exec *x, const struct pollfd *p)
{
	struct pipe_in *in = &x->in;
	if (in->fd < 0 || !p->revents)
		return;
	if (in->from == in->to) { // not waiting to write, so this is its closing
		close_in(in);
		if (!in->eof)
			channel_send(STDIN_CLOSED, x->id, NULL, 0);
		return;
	}
	in->from += feed(x, in->buf + in->from, in->to - in->from);
	if (in->from < in->to)
		return;
	free(in->buf);
	in->buf = NULL;
	in->from = in->to = 0;
	if (in->eof)
		close_in(in);
}

// ---- output

static void serve_out(struct exec *x, struct pipe_out *out, uint8_t type, const struct pollfd *p)
{
	uint8_t *data;
	if (out->fd < 0 || !p->revents || !(data = channel_data()))
		return;
	ssize_t n = read(out->fd, data, MAX_DATA);
	if (n > 0) {
		channel_send_data(type, x->id, (size_t)n);
		out->before -= (int)n;
	} else {
		close_fd(&out->fd);
	}
}

static void drain(struct pipe_out *out)
{
	if (out->fd < 0)
		return;
	if (n_drains == MAX_DRAINS) {
		close(drains[0]);
		n_drains--;
		memmove(drains, drains + 1, sizeof drains[0] * MAX_DRAINS - sizeof drains[0]);
	}
	drains[n_drains++] = out->fd;
	out->fd = -1;
}

static void serve_drains(const struct pollfd *p)
{
	static uint8_t nowhere[MAX_DATA];
	for (int i = n_drains - 1; i >= 0; i--)
		if (p[i].revents && read(drains[i], nowhere, sizeof nowhere) <= 0) {
			close(drains[i]);
			n_drains--;
			memmove(drains + i, drains + i + 1, sizeof drains[0] * (size_t)(n_drains - i));
		}
}

// heard_out tells that all is read that x wrote itself: what comes now is from
// processes that it left running.
static bool heard_out(const struct exec *x)
{
	return (x->out.fd < 0 || x->out.before <= 0) && (x->err.fd < 0 || x->err.before <= 0);
}

// ---- end

static void set_free(struct exec *x)
{
	x->state = FREE;
	while (top > 0 && execs[top - 1].state == FREE)
		top--;
}

// finish says EXIT.
static void finish(struct exec *x)
{
	uint32_t flags = 0;
	// The kernel counts for the sandbox as a whole. When commands ran side by
	// side, one that ended well is not the one that was hit.
	if (memory_kills() > x->kills && (x->alone || x->code != 0))
		flags |= EXIT_OOM;
	close_in(&x->in);
	drain(&x->out);
	drain(&x->err);
	bool left = x->state == ENDED && x->left;
	send_exit(x->id, x->code, left ? flags | EXIT_LEFT : flags);
	if (left)
		x->state = LEFT;
	else
		set_free(x);
}

// begin_kill leaves x's stdin open: what dies is not to take the half of its
// input that it got for the whole.
static void begin_kill(struct exec *x)
{
	x->state = KILLING;
	x->code = KILLED;
	x->left = false;
	x->due = clock_us() + LAST_RESORT;
	kill_due = 0;
	close_fd(&x->out.fd);
	close_fd(&x->err.fd);
	close_fd(&x->report);
}

// strays tells whether a command that is to die has lost its supervisor.
static bool strays(void)
{
	for (struct exec *x = execs; x < execs + top; x++)
		if (x->state == KILLING && x->tampered)
			return true;
	return false;
}

// serve_kills kills for all commands that are to die, at once: looking for
// processes is what takes time.
static void serve_kills(void)
{
	uint64_t now = clock_us(), last_resort = NEVER;
	if (now < kill_due)
		return;
	for (struct exec *x = execs; x < execs + top; x++)
		if (x->state == KILLING && x->due < last_resort)
			last_resort = x->due;
	kill_due = NEVER;
	if (last_resort == NEVER)
		return;

	reap(); // what died decides where to look
	bool among_strays = strays();
	if (!tree_kill(among_strays)) {
		if (now >= last_resort)
			kill(-1, SIGKILL); // atomic: nothing in the namespace outruns it
		kill_due = clock_us() + KILL_AGAIN;
		return;
	}
	reap();
	if (!among_strays && strays()) { // one has lost its supervisor meanwhile
		kill_due = 0;
		return;
	}
	// All are dead. They count against the limit of processes until they are
	// reaped, and the next command is to have that room.
	for (struct exec *x = execs; x < execs + top; x++)
		if (x->state == KILLING && x->supervisor > 0) {
			kill(x->supervisor, SIGKILL);
			waitpid(x->supervisor, NULL, 0);
		}
	reap();
	for (int i = top - 1; i >= 0; i--)
		if (execs[i].state == KILLING)
			finish(&execs[i]);
}

void exec_kill(uint32_t id)
{
	struct exec *x = find(id);
	if (x && x->state != KILLING)
		begin_kill(x);
}

void execs_kill(void)
{
	for (struct exec *x = execs; x < execs + top; x++)
		if (x->state != FREE && x->state != KILLING)
			begin_kill(x);
}

bool execs_none(void)
{
	return top == 0;
}

void exec_let(uint32_t id)
{
	struct exec *x = find(id);
	if (!x || x->state != LEFT)
		return;
	if (x->supervisor > 0)
		kill(x->supervisor, SIGKILL); // what is below it becomes ours
	set_free(x);
}

static void ended(struct exec *x)
{
	struct report r;
	bool whole = read(x->report, &r, sizeof r) == sizeof r;
	close_fd(&x->report);
	if (!whole) { // the supervisor is gone without a word: killed from inside
		x->supervisor = 0;
		x->tampered = true;
		begin_kill(x);
		return;
	}
	x->state = ENDED;
	x->code = r.code & 255;
	x->left = r.left != 0;
	x->due = clock_us() + DRAIN;
	if (x->out.fd >= 0)
		ioctl(x->out.fd, FIONREAD, &x->out.before);
	if (x->err.fd >= 0)
		ioctl(x->err.fd, FIONREAD, &x->err.before);
}

void execs_reaped(pid_t pid, bool killed)
{
	for (struct exec *x = execs; x < execs + top; x++)
		if (x->state != FREE && x->supervisor == pid) {
			x->supervisor = 0;
			x->tampered = killed;
		}
}

enum fate execs_fate(pid_t pid)
{
	for (struct exec *x = execs; x < execs + top; x++)
		if (x->state != FREE && x->supervisor == pid)
			return x->state == KILLING ? DOOMED : SPARED;
	return STRAY;
}

// ---- the event loop's view

size_t execs_watch(struct pollfd *fds)
{
	bool room = channel_data() != NULL;
	struct pollfd *p = fds;
	for (struct exec *x = execs; x < execs + top; x++) {
		bool live = x->state != FREE;
		*p++ = (struct pollfd){live ? x->report : -1, POLLIN, 0};
		*p++ = (struct pollfd){live && x->state != KILLING ? x->in.fd : -1, x->in.from < x->in.to ? POLLOUT : 0, 0};
		*p++ = (struct pollfd){live && room ? x->out.fd : -1, POLLIN, 0};
		*p++ = (struct pollfd){live && room ? x->err.fd : -1, POLLIN, 0};
	}
	for (int i = 0; i < n_drains; i++)
		*p++ = (struct pollfd){drains[i], POLLIN, 0};
	return (size_t)(p - fds);
}

void execs_serve(const struct pollfd *fds)
{
	int n = top; // finish lowers it
	serve_drains(fds + 4 * n);
	for (int i = 0; i < n; i++, fds += 4) {
		struct exec *x = &execs[i];
		if (x->state == RUNNING && fds[0].revents)
			ended(x);
		if (x->state == RUNNING || x->state == ENDED) {
			serve_in(x, &fds[1]);
			serve_out(x, &x->out, STDOUT, &fds[2]);
			serve_out(x, &x->err, STDERR, &fds[3]);
		}
		if (x->state == ENDED) {
			bool eof = x->out.fd < 0 && x->err.fd < 0;
			if (eof || (heard_out(x) && clock_us() >= x->due))
				finish(x);
		}
	}
	serve_kills();
}

uint64_t execs_due(void)
{
	uint64_t due = kill_due;
	for (struct exec *x = execs; x < execs + top; x++)
		if (x->state == ENDED && heard_out(x) && x->due < due)
			due = x->due;
	return due;
}
