// What the host and the agent say to each other, in numbers. ../frame.go draws
// it byte by byte, and a test there holds the two files together.
#ifndef PROTOCOL_H
#define PROTOCOL_H

enum {
	PROTOCOL_VERSION = 2,

	HEADER_SIZE = 12,        // u32 length of payload, u8 type, 3 zero bytes, u32 id
	MAX_EXEC = 2 << 20,      // payload of an EXEC
	MAX_DATA = 64 << 10,     // payload of any other frame
	MAX_STRINGS = 32768,     // arguments and variables of an EXEC
	MAX_EXECS = 128,         // at once
	STDIN_WINDOW = 256 << 10, // unwritten bytes of stdin that the agent takes, per exec
	KEY_SIZE = 26,            // key and nonce: letters A to Z and digits 2 to 7
	SYNC_SIZE = 52            // KEY_SIZE bytes of key, as many of nonce; is no frame
};

// Host to agent.
enum {
	EXEC = 0x01,      // run this
	STDIN = 0x02,     // bytes for its stdin, within the window
	STDIN_EOF = 0x03, // no more of them
	KILL = 0x04,      // kill all that it started, then say EXIT
	LET = 0x05,       // what EXIT said is left may stay
	PING = 0x06,      // say PONG
	BYE = 0x07,       // end
	KEY = 0x08        // what a SYNC will begin with
};

// Agent to host.
enum {
	HELLO = 0x81,        // first: version, user, shells
	STDOUT = 0x82,       // bytes that it wrote
	STDERR = 0x83,       //
	EXIT = 0x84,         // it ended: code and flags; the last frame of its id
	CREDIT = 0x85,       // so many bytes of stdin went into it
	STDIN_CLOSED = 0x86, // it reads its stdin no more
	PONG = 0x87
};

enum { EXEC_SHELL = 1, EXEC_STDIN = 2 }; // flags of EXEC
enum { EXIT_LEFT = 1, EXIT_OOM = 2 };    // flags of EXIT
enum { HELLO_BASH = 1, HELLO_SH = 2 };   // shells of HELLO

#endif
