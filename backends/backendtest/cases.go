package backendtest

// cases are all promises, from a driver's words to the end of a sandbox. They
// run in this order; a case that is not bare gets the shared sandbox.
var cases = []testCase{
	// Driver and Backend.
	{name: "Driver", run: driverIsAPlainValue, bare: true},
	{name: "Describe", run: describeTellsTheModel, bare: true},
	{name: "Check", run: checkMakesNoSandbox, bare: true},

	// Exec: how a command ends.
	{name: "ExitCodes", run: exitCodes},
	{name: "Signals", run: signals, needs: []Need{Shell, Signals}},
	{name: "NotFound", run: notFound},
	{name: "NotExecutable", run: notExecutable, needs: []Need{Shell}},
	{name: "BadDirectory", run: badDirectory},

	// Exec: what goes in and out.
	{name: "StreamsApart", run: streamsApart, needs: []Need{Shell}},
	{name: "StreamOrder", run: streamOrder, needs: []Need{Shell}},
	{name: "OutputAsItComes", run: outputAsItComes, needs: []Need{Shell}},
	{name: "BinaryBothWays", run: binaryBothWays},
	{name: "BinaryStderr", run: binaryStderr, needs: []Need{Shell}},
	{name: "NoTerminal", run: noTerminal, needs: []Need{Shell}},
	{name: "EmptyStdin", run: emptyStdin},
	{name: "BigStdin", run: bigStdin},
	{name: "StdinIgnored", run: stdinIgnored},
	{name: "StdinHalfRead", run: stdinHalfRead, needs: []Need{Shell}},
	{name: "StdinAndOutputAtOnce", run: stdinAndOutputAtOnce, needs: []Need{Shell}},
	{name: "StdinEchoedOnBoth", run: stdinEchoedOnBoth, needs: []Need{Shell}},
	{name: "NilWriters", run: nilWriters},
	{name: "OneWriterForBoth", run: oneWriterForBoth, needs: []Need{Shell}},
	{name: "SlowWriter", run: slowWriter, needs: []Need{Shell}},
	{name: "MuchOutput", run: muchOutput, needs: []Need{Shell}},

	// Exec: what a command is told.
	{name: "Args", run: argsAsTheyAre},
	{name: "ManyArgs", run: manyArgs},
	{name: "LongCommand", run: longCommand, needs: []Need{Shell}},
	{name: "Unrepresentable", run: unrepresentable},
	{name: "DefaultShell", run: defaultShell, needs: []Need{Shell}, bare: true},
	{name: "NoSuchShell", run: noSuchShell, needs: []Need{Shell}, bare: true},
	{name: "Path", run: pathLookup, needs: []Need{Shell}},
	{name: "Env", run: env, bare: true},
	{name: "EnvOfTheDaemon", run: envOfTheDaemon, bare: true},
	{name: "Dir", run: dir, bare: true},

	// Exec: what stays between commands, and beside them.
	{name: "FilesStay", run: filesStay, needs: []Need{Shell}},
	{name: "ShellStateDoesNot", run: shellStateDoesNot, needs: []Need{Shell}},
	{name: "Parallel", run: parallel},
	{name: "LongBesideShort", run: longBesideShort},
	{name: "BackgroundDoesNotDelay", run: backgroundDoesNotDelay, needs: []Need{Shell}},
	{name: "BackgroundLives", run: backgroundLives, needs: []Need{Shell, Background}},
	{name: "BackgroundMayWrite", run: backgroundMayWrite, needs: []Need{Shell, Background}},
	{name: "ManyExecs", run: manyExecs},
	{name: "NoZombies", run: noZombies, needs: []Need{Shell, Proc, OwnProcesses}},

	// Exec: kill means kill.
	{name: "CtxEndedBefore", run: ctxEndedBefore},
	{name: "Timeout", run: timeout},
	{name: "CancelCause", run: cancelCause},
	{name: "WriteError", run: writeError},
	{name: "WriteErrorAtTheEnd", run: writeErrorAtTheEnd},
	{name: "CancelDuringStdin", run: cancelDuringStdin},
	{name: "CancelRace", run: cancelRace},
	{name: "KillByCancel", run: killByCancel, needs: []Need{Shell}},
	{name: "KillByTimeout", run: killByTimeout, needs: []Need{Shell}},
	{name: "KillByWriteError", run: killByWriteError, needs: []Need{Shell}},
	{name: "KillChain", run: killChain, needs: []Need{Shell}},
	{name: "KillSparesOthers", run: killSparesOthers, needs: []Need{Shell}},
	{name: "KillSparesBackground", run: killSparesBackground, needs: []Need{Shell, Background}},
	{name: "ForkBomb", run: forkBomb, needs: []Need{Shell}, bare: true},
	{name: "MemoryHog", run: memoryHog, needs: []Need{Shell}, bare: true},

	// Sandbox: one apart from the other, and from this machine.
	{name: "FilesApart", run: filesApart, needs: []Need{Shell}, bare: true},
	{name: "FileSystemsApart", run: fileSystemsApart, needs: []Need{Shell, OwnRoot}, bare: true},
	{name: "ProcessesApart", run: processesApart, needs: []Need{Shell, Proc, OwnProcesses}, bare: true},
	{name: "NoNetwork", run: noNetwork, needs: []Need{Shell, Proc, OwnNetwork}, bare: true},

	// Sandbox: from Create to Done.
	{name: "Fresh", run: fresh, bare: true},
	{name: "CreateCtxEndsLater", run: createCtxEndsLater, bare: true},
	{name: "CreateFails", run: createFails, bare: true},
	{name: "CreateCancelled", run: createCancelled, bare: true},
	{name: "CreateManyAtOnce", run: createManyAtOnce, bare: true},
	{name: "Close", run: closeLeavesNothing, bare: true},
	{name: "CloseTwice", run: closeTwice, bare: true},
	{name: "CloseWhileRunning", run: closeWhileRunning, bare: true},
	{name: "CloseCtxEnded", run: closeCtxEnded, bare: true},
	{name: "CloseEndsBackground", run: closeEndsBackground, needs: []Need{Shell, Background}, bare: true},
	{name: "CloseOnlyOne", run: closeOnlyOne, bare: true},
	{name: "GoneByItself", run: goneByItself, bare: true},
	{name: "Sweep", run: sweep, bare: true},

	// Sandbox: from one daemon to the next.
	{name: "Tickets", run: ticketsAsClaimed},
	{name: "Adopt", run: adopt, needs: []Need{Shell, Adopt}, bare: true},
	{name: "AdoptKills", run: adoptKills, needs: []Need{Shell, Adopt}, bare: true},
	{name: "AdoptInFullFlow", run: adoptInFullFlow, needs: []Need{Adopt}, bare: true},
	{name: "AdoptWhatIsGone", run: adoptWhatIsGone, needs: []Need{Adopt}, bare: true},
	{name: "AdoptCancelled", run: adoptCancelled, needs: []Need{Adopt}, bare: true},
	{name: "AdoptNonsense", run: adoptNonsense, needs: []Need{Adopt}, bare: true},
	{name: "LeaveThenClose", run: leaveThenClose, needs: []Need{Adopt}, bare: true},
	{name: "LeftForNobody", run: leftForNobody, needs: []Need{Shell, Adopt}, bare: true},
	{name: "SweepKeeps", run: sweepKeeps, needs: []Need{Adopt}},
	{name: "Hammer", run: hammer, bare: true},
}
