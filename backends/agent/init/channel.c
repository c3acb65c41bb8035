// Frames in and out. Input and output are one buffer each; a frame is handed
// on only when there is room to answer it, so neither can overflow.
//
// The host may be replaced by a successor, which comes into the stream at
// whatever byte the dead one had got to, and makes itself known by a SYNC:
//
//	FRAMES ──no frame──► BROKEN ──no SYNC either──► end
//	  │  ▲ └──SYNC, in half a frame──┐ │ └──SYNC of the last nonce──► FRAMES
//	  │  └─all dead: nonce──┐        ▼ ▼
//	  │                     └─────── SYNCING ◄─┐
//	  └── … frame … frame …             └─SYNC─┘
//
// A SYNC is looked for where no frame is: never in whole frames, so these cost
// and mean what they did.
#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

enum {
	OUT_SIZE = 512 << 10,
	CORK_BYTES = 16 << 10,

	// Data and input leave this much room. MAX_EXECS commands can make us
	// send an EXIT, a STDIN_CLOSED and a window of CREDITs each before we read
	// another frame, and that frame a refusal: less than 14 KiB.
	OUT_RESERVE = 16 << 10,
};

// Output waits that long for more, so that what a command wrote and its EXIT
// leave in one write: over a network, two small ones may take 40 ms.
#define CORK (1 * MS)

static uint8_t in[HEADER_SIZE + MAX_EXEC];
static size_t in_len;
static bool in_waits; // there is a whole frame in it, and no room to answer
static uint64_t heard;

static uint8_t out[OUT_SIZE];
static size_t out_from, out_to;
static uint64_t out_due = NEVER;
static bool out_stuck;

static uint8_t key[KEY_SIZE], nonce[KEY_SIZE]; // nonce: of the last SYNC
static bool keyed;         // there is a key
static const char *broken; // why what is at the start of in is no frame, or NULL
static bool syncing;       // until the nonce is sent nothing else is
static size_t searched;    // so many bytes at the start of in begin no SYNC

static size_t take(uint8_t *p, size_t n);
static const char *frame(uint8_t *p, size_t n, size_t *size);
static void send_nonce(void);
static bool out_room(size_t n);

void channel_open(void)
{
	if (fcntl(0, F_SETFL, O_NONBLOCK) < 0)
		end(END_READ, "stdin");
	if (fcntl(1, F_SETFL, O_NONBLOCK) < 0)
		end(END_WRITE, "stdout");
	heard = clock_us();
	uint8_t hello[12];
	put32(hello, PROTOCOL_VERSION);
	put32(hello + 4, getuid());
	put32(hello + 8, (access("/bin/bash", X_OK) == 0 ? HELLO_BASH : 0) |
	                     (access("/bin/sh", X_OK) == 0 ? HELLO_SH : 0));
	channel_send(HELLO, 0, hello, sizeof hello);
}

bool channel_wants(void)
{
	return !in_waits;
}

void channel_read(bool readable)
{
	if (readable) {
		ssize_t n = read(0, in + in_len, sizeof in - in_len);
		if (n == 0)
			end(END_OK, NULL);
		if (n < 0 && errno != EAGAIN && errno != EINTR)
			end(END_READ, "read from the host");
		if (n > 0) {
			heard = clock_us();
			in_len += (size_t)n;
		}
	}
	size_t done = 0;
	for (size_t n; !(in_waits = !out_room(OUT_RESERVE)) &&
	               (n = take(in + done, in_len - done)) > 0;)
		done += n;
	if (done > 0) {
		in_len -= done;
		memmove(in, in + done, in_len);
	}
	if (syncing && execs_none())
		send_nonce();
}

static bool is_text(const uint8_t *p, size_t n)
{
	for (; n > 0; p++, n--)
		if (!(*p >= 'A' && *p <= 'Z') && !(*p >= '2' && *p <= '7'))
			return false;
	return true;
}

// find_sync returns where in the n bytes at p the first SYNC begins, or begins
// if what comes next goes on with it; else n.
static size_t find_sync(const uint8_t *p, size_t n)
{
	const uint8_t *s = p, *stop = p + n;
	for (; s < stop && (s = memchr(s, key[0], (size_t)(stop - s))); s++) {
		size_t have = (size_t)(stop - s);
		if (memcmp(s, key, have < KEY_SIZE ? have : KEY_SIZE) == 0 &&
		    is_text(s, have < SYNC_SIZE ? have : SYNC_SIZE))
			return (size_t)(s - p);
	}
	return n;
}

// begin_sync is for a successor. Nothing of what was under way goes on, and
// nothing of it is told.
static void begin_sync(const uint8_t *its_nonce)
{
	memcpy(nonce, its_nonce, KEY_SIZE);
	syncing = true;
	out_from = out_to = 0;
	out_due = NEVER;
	out_stuck = false;
	execs_kill();
}

// send_nonce ends a SYNC. After its nonce the host hears nothing until it asks,
// so whatever carries the stream in pieces ends one of them here too.
static void send_nonce(void)
{
	syncing = false;
	memcpy(out, nonce, KEY_SIZE);
	out_to = KEY_SIZE;
	out_due = 0;
	heard = clock_us();
}

// take acts on what is at p, of which n bytes are there, and returns how many
// of them it is done with, or 0 when there is more to come.
static size_t take(uint8_t *p, size_t n)
{
	size_t size = 0;
	if (!syncing && !broken)
		broken = frame(p, n, &size);
	if (size > 0) {
		searched = 0;
		return size;
	}
	if (broken && !keyed)
		end(END_PROTOCOL, broken);
	if (!keyed)
		return 0;

	for (;;) {
		size_t at = searched + find_sync(p + searched, n - searched);
		if (n - at < SYNC_SIZE) { // not all of it is there, or nothing
			searched = at;
			if (!syncing && !broken)
				return 0; // it goes on with its frame
			// Of less than a SYNC all may be the end of one.
			if (broken && at == n && n >= SYNC_SIZE)
				end(END_PROTOCOL, broken);
			if (broken && at == n)
				at = 0;
			searched = 0;
			return at;
		}
		// Each SYNC comes many times. What looks like the last one in half a
		// frame belongs to the frame.
		bool again = memcmp(p + at + KEY_SIZE, nonce, KEY_SIZE) == 0;
		if (again && !syncing && !broken) {
			searched = at + 1;
			continue;
		}
		if (!again)
			begin_sync(p + at + KEY_SIZE);
		broken = NULL;
		searched = 0;
		return at + SYNC_SIZE;
	}
}

// frame acts on the frame at p, of which n bytes are there, and tells its size,
// or 0 when there is more to come. It returns NULL, or why this is no frame,
// and then did nothing.
//
// The last frame of a dead host may be completed by the text of a SYNC. None
// does harm: letters in the first 8 bytes of a header make it none, and in the
// id one of nobody, or of a frame that has none; an EXEC has to end in a 0
// byte, which that text has not, so half a command never runs; STDIN goes to a
// command that is about to die, and sees no end of its input before.
static const char *frame(uint8_t *p, size_t n, size_t *size)
{
	if (n < HEADER_SIZE)
		return NULL;
	uint32_t len = get32(p), id = get32(p + 8);
	uint8_t type = p[4], *payload = p + HEADER_SIZE;

	uint32_t min = 0, max = 0;
	bool of_exec = true;
	switch (type) {
	case EXEC:
		min = 12;
		max = MAX_EXEC;
		break;
	case STDIN:
		min = 1;
		max = MAX_DATA;
		break;
	case STDIN_EOF:
	case KILL:
	case LET:
		break;
	case PING:
	case BYE:
		of_exec = false;
		break;
	case KEY:
		min = max = KEY_SIZE;
		of_exec = false;
		break;
	default:
		return "the host sent a frame of unknown type";
	}
	if (len < min || len > max || p[5] || p[6] || p[7] || of_exec != (id != 0))
		return "the host sent a malformed frame";
	if (n - HEADER_SIZE < len)
		return NULL;

	const char *why = NULL;
	switch (type) {
	case EXEC:
		why = exec_start(id, payload, len);
		break;
	case STDIN:
		why = exec_stdin(id, payload, len);
		break;
	case STDIN_EOF:
		exec_stdin_eof(id);
		break;
	case KILL:
		exec_kill(id);
		break;
	case LET:
		exec_let(id);
		break;
	case PING:
		channel_send(PONG, 0, NULL, 0);
		break;
	case BYE:
		end(END_OK, NULL);
	case KEY:
		if (!is_text(payload, KEY_SIZE))
			return "the host sent a key out of bounds";
		memcpy(key, payload, KEY_SIZE);
		keyed = true;
	}
	if (!why)
		*size = HEADER_SIZE + len;
	return why;
}

uint64_t channel_heard(void)
{
	return heard;
}

// out_room makes room for n more bytes, if it can without much copying.
static bool out_room(size_t n)
{
	if (out_to + n > OUT_SIZE && out_from >= out_to - out_from) {
		memcpy(out, out + out_from, out_to - out_from);
		out_to -= out_from;
		out_from = 0;
	}
	return out_to + n <= OUT_SIZE;
}

static void out_frame(uint8_t type, uint32_t id, size_t n)
{
	uint8_t *p = out + out_to;
	put32(p, (uint32_t)n);
	put32(p + 4, type);
	put32(p + 8, id);
	out_to += HEADER_SIZE + n;
}

void channel_send(uint8_t type, uint32_t id, const void *payload, size_t n)
{
	if (syncing)
		return;
	if (!out_room(HEADER_SIZE + n))
		end(END_SYSTEM, "no room for a frame: a bug");
	if (n > 0)
		memcpy(out + out_to + HEADER_SIZE, payload, n);
	out_frame(type, id, n);
	out_due = 0;
}

uint8_t *channel_data(void)
{
	return out_room(HEADER_SIZE + MAX_DATA + OUT_RESERVE) ? out + out_to + HEADER_SIZE : NULL;
}

void channel_send_data(uint8_t type, uint32_t id, size_t n)
{
	out_frame(type, id, n);
	if (out_to - out_from >= CORK_BYTES)
		out_due = 0;
	else if (out_due == NEVER)
		out_due = clock_us() + CORK;
}

void channel_flush(void)
{
	if (out_due > 0 && (out_due == NEVER || clock_us() < out_due))
		return;
	while (out_from < out_to) {
		ssize_t n = write(1, out + out_from, out_to - out_from);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN) {
			out_stuck = true;
			return;
		}
		if (n < 0)
			end(END_WRITE, "write to the host");
		out_from += (size_t)n;
	}
	out_from = out_to = 0;
	out_due = NEVER;
	out_stuck = false;
}

uint64_t channel_due(void)
{
	return out_stuck ? NEVER : in_waits ? 0 : out_due;
}

bool channel_stuck(void)
{
	return out_stuck;
}

uint32_t get32(const uint8_t *p)
{
	return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

void put32(uint8_t *p, uint32_t v)
{
	p[0] = (uint8_t)v;
	p[1] = (uint8_t)(v >> 8);
	p[2] = (uint8_t)(v >> 16);
	p[3] = (uint8_t)(v >> 24);
}
