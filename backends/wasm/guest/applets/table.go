package applets

import "sort"

// tool is a line of the table: what to run, and its usage without the name.
type tool struct {
	name, usage string
	run         func(*Ctx)
}

// tools returns the table, sorted by name. It is a function because the tools
// refer to it: help lists them.
func tools() []tool {
	return []tool{
		{"[", "EXPRESSION ]", test},
		{"arch", "", arch},
		{"awk", "[-F sep] [-v var=value] 'program' | -f progfile [file ...]", awk},
		{"base32", "[-d] [-w COLS] [FILE]", base64Tool},
		{"base64", "[-d] [-i] [-w COLS] [FILE]", base64Tool},
		{"basename", "NAME [SUFFIX] | -a [-s SUFFIX] NAME...", basename},
		{"bc", "[-lq] [FILE]...", bc},
		{"bunzip2", "[-kcf] [FILE]...", compressTool},
		{"bzcat", "[FILE]...", compressTool},
		{"bzip2", "[-cdfk1-9] [FILE]...", compressTool},
		{"cal", "[[MONTH] YEAR]", cal},
		{"cat", "[-AbeEnstTuv] [FILE]...", cat},
		{"chgrp", "[-R] GROUP FILE...", chown},
		{"chmod", "[-R] MODE[,MODE]... FILE...", chmod},
		{"chown", "[-R] [OWNER][:[GROUP]] FILE...", chown},
		{"cksum", "[FILE]...", cksum},
		{"clear", "", clearTool},
		{"cmp", "[-bls] [-n LIMIT] FILE1 [FILE2 [SKIP1 [SKIP2]]]", cmpTool},
		{"column", "[-t] [-s SEPARATORS] [-o SEPARATOR] [-N NAMES] [FILE]...", column},
		{"comm", "[-123] FILE1 FILE2", comm},
		{"cp", "[-adfilnPprRsTuv] SOURCE... DEST", cp},
		{"cut", "-b LIST | -c LIST | -f LIST [-d DELIM] [-s] [FILE]...", cut},
		{"date", "[-u] [-d STRING] [+FORMAT]", date},
		{"dc", "[-e EXPRESSION] [FILE]...", dc},
		{"dd", "[if=FILE] [of=FILE] [bs=N] [count=N] [skip=N] [seek=N] [conv=...] [status=...]", dd},
		{"df", "[-hikPT] [FILE]...", df},
		{"diff", "[-uUcqrNbBwiaeys] FILE1 FILE2", diff},
		{"dirname", "NAME...", dirname},
		{"du", "[-abchksS] [-d DEPTH] [FILE]...", du},
		{"echo", "[-neE] [STRING]...", echo},
		{"egrep", "PATTERNS [FILE]...", grep},
		{"env", "[-i] [-u NAME] [NAME=VALUE]... [COMMAND [ARG]...]", envTool},
		{"expand", "[-i] [-t N] [FILE]...", expand},
		{"expr", "EXPRESSION", expr},
		{"factor", "[NUMBER]...", factor},
		{"false", "", falseTool},
		{"fgrep", "PATTERNS [FILE]...", grep},
		{"file", "[-bi] FILE...", fileTool},
		{"find", "[-H] [-L] [-P] [path...] [expression]", findTool},
		{"fmt", "[-w WIDTH] [FILE]...", fmtTool},
		{"fold", "[-bs] [-w WIDTH] [FILE]...", fold},
		{"free", "[-bkmgh]", free},
		{"getopt", "OPTSTRING PARAMETERS | -o OPTSTRING [-l LONG] [-n NAME] -- PARAMETERS", getoptTool},
		{"grep", "[OPTION]... PATTERNS [FILE]...", grep},
		{"groups", "", groups},
		{"gunzip", "[-cfkt] [FILE]...", compressTool},
		{"gzip", "[-cdfklt1-9] [FILE]...", compressTool},
		{"hd", "[FILE]...", hexdump},
		{"head", "[-n LINES] [-c BYTES] [FILE]...", head},
		{"help", "", helpTool},
		{"hexdump", "[-bCcdox] [-e FORMAT] [-n LENGTH] [-s SKIP] [-v] [FILE]...", hexdump},
		{"hostname", "", hostname},
		{"id", "[-gGnu] [USER]", idTool},
		{"install", "[-Dd] [-m MODE] SOURCE... DEST", install},
		{"join", "[-a N] [-v N] [-1 F] [-2 F] [-t C] [-o LIST] FILE1 FILE2", joinTool},
		{"jq", "[-cCejnrRsSM] [--arg NAME VALUE] FILTER [FILE]...", jq},
		{"kill", "[-SIGNAL] PID...", kill},
		{"less", "[FILE]...", cat},
		{"link", "FILE1 FILE2", link},
		{"ln", "[-fnrsTv] TARGET... LINK", ln},
		{"ls", "[-aAbBcCdfFghHiklLmnopqQrRsStTuUvwxX1] [FILE]...", ls},
		{"lzma", "[-cdk] [FILE]...", compressTool},
		{"md5sum", "[-bct] [FILE]...", sums},
		{"mkdir", "[-pv] [-m MODE] DIRECTORY...", mkdir},
		{"mkfifo", "[-m MODE] NAME...", mkfifo},
		{"mktemp", "[-dqtu] [-p DIR] [TEMPLATE]", mktemp},
		{"more", "[FILE]...", cat},
		{"mv", "[-finTuv] SOURCE... DEST", mv},
		{"nice", "[-n N] [COMMAND [ARG]...]", nice},
		{"nl", "[-b STYLE] [-s SEP] [-v N] [-w N] [FILE]...", nl},
		{"nohup", "COMMAND [ARG]...", nohup},
		{"nproc", "", nproc},
		{"numfmt", "[--from=UNIT] [--to=UNIT] [NUMBER]...", numfmt},
		{"od", "[-A RADIX] [-t TYPE] [-j SKIP] [-N COUNT] [-v] [-w WIDTH] [FILE]...", od},
		{"paste", "[-s] [-d LIST] [FILE]...", paste},
		{"patch", "[-pN] [-R] [-i FILE] [-d DIR] [FILE]", patch},
		{"pgrep", "[-fxl] PATTERN", pgrep},
		{"pidof", "NAME...", pidof},
		{"pkill", "[-f] PATTERN", pgrep},
		{"printenv", "[NAME]...", printenv},
		{"printf", "FORMAT [ARGUMENT]...", printf},
		{"ps", "[-ef] [-o FIELDS]", ps},
		{"pwd", "[-LP]", pwd},
		{"readlink", "[-femnz] FILE...", readlink},
		{"realpath", "[-emsz] [--relative-to=DIR] FILE...", realpath},
		{"rev", "[FILE]...", rev},
		{"rm", "[-dfirRv] [FILE]...", rm},
		{"rmdir", "[-p] DIRECTORY...", rmdir},
		{"sed", "[OPTION]... {script-only-if-no-other-script} [input-file]...", sed},
		{"seq", "[-w] [-s SEP] [-f FORMAT] [FIRST [INCREMENT]] LAST", seq},
		{"setsid", "COMMAND [ARG]...", setsid},
		{"sha1sum", "[-bct] [FILE]...", sums},
		{"sha224sum", "[-bct] [FILE]...", sums},
		{"sha256sum", "[-bct] [FILE]...", sums},
		{"sha384sum", "[-bct] [FILE]...", sums},
		{"sha3sum", "[-a BITS] [-c] [FILE]...", sums},
		{"sha512sum", "[-bct] [FILE]...", sums},
		{"shuf", "[-e] [-i LO-HI] [-n COUNT] [FILE]", shuf},
		{"sleep", "NUMBER[smhd]...", sleep},
		{"sort", "[-bcdfghiMnRrsuVz] [-k KEY] [-t SEP] [-o FILE] [FILE]...", sortTool},
		{"split", "[-l N] [-b N] [-n N] [-d] [-a N] [FILE [PREFIX]]", split},
		{"stat", "[-L] [-c FORMAT] FILE...", statTool},
		{"stdbuf", "OPTION... COMMAND [ARG]...", setsid},
		{"strings", "[-a] [-n LEN] [-t RADIX] [FILE]...", stringsTool},
		{"sum", "[-rs] [FILE]...", sum},
		{"sync", "", syncTool},
		{"tac", "[FILE]...", tac},
		{"tail", "[-f] [-n LINES] [-c BYTES] [FILE]...", tail},
		{"tar", "-c|-x|-t [-f FILE] [-zjJvkOp] [-C DIR] [--exclude=PATTERN] [FILE]...", tarTool},
		{"tee", "[-a] [FILE]...", tee},
		{"test", "EXPRESSION", test},
		{"time", "[-p] COMMAND [ARG]...", timeTool},
		{"timeout", "[-k DURATION] [-s SIGNAL] DURATION COMMAND [ARG]...", timeout},
		{"touch", "[-acm] [-d STRING] [-r FILE] [-t STAMP] FILE...", touch},
		{"tr", "[-cdst] SET1 [SET2]", tr},
		{"tree", "[-adfL] [DIRECTORY]...", tree},
		{"true", "", trueTool},
		{"truncate", "[-c] -s SIZE FILE...", truncateTool},
		{"tsort", "[FILE]", tsort},
		{"tty", "", tty},
		{"uname", "[-asnrvmo]", uname},
		{"unexpand", "[-a] [-t N] [FILE]...", unexpand},
		{"uniq", "[-cdDiu] [-f N] [-s N] [-w N] [INPUT [OUTPUT]]", uniq},
		{"unlink", "FILE", unlink},
		{"unlzma", "[FILE]...", compressTool},
		{"unxz", "[FILE]...", compressTool},
		{"unzip", "[-lopqjt] [-d DIR] [-x PATTERN] FILE[.zip] [PATTERN]...", unzip},
		{"unzstd", "[FILE]...", compressTool},
		{"uptime", "", uptime},
		{"uudecode", "[-o FILE] [FILE]", uudecode},
		{"uuencode", "[-m] [FILE] NAME", uuencode},
		{"wc", "[-clLmw] [FILE]...", wc},
		{"which", "[-a] COMMAND...", which},
		{"whoami", "", whoami},
		{"xargs", "[-0rtx] [-d C] [-I STR] [-L N] [-n N] [-P N] [COMMAND [ARG]...]", xargs},
		{"xxd", "[-prbiu] [-c N] [-g N] [-l N] [-s N] [FILE [OUT]]", xxd},
		{"xz", "[-cdfkt0-9] [FILE]...", compressTool},
		{"xzcat", "[FILE]...", compressTool},
		{"yes", "[STRING]...", yes},
		{"zcat", "[FILE]...", compressTool},
		{"zip", "[-rqj] ARCHIVE FILE...", zipTool},
		{"zstd", "[-cdfk1-19] [FILE]...", compressTool},
		{"zstdcat", "[FILE]...", compressTool},
	}
}

// shells are the names of the shell, which package sh implements.
var shells = []string{"ash", "bash", "sh"}

// find returns the function of a tool, or nil.
func find(name string) func(*Ctx) {
	t := tools()
	i := sort.Search(len(t), func(i int) bool { return t[i].name >= name })
	if i < len(t) && t[i].name == name {
		return t[i].run
	}
	return nil
}

// Names lists every command of this program, sorted.
func Names() []string {
	l := append([]string{}, shells...)
	for _, t := range tools() {
		l = append(l, t.name)
	}
	sort.Strings(l)
	return l
}

// synopsis is the usage line of a tool.
func synopsis(name string) string {
	for _, t := range tools() {
		if t.name == name {
			return "Usage: " + name + " " + t.usage
		}
	}
	return "Usage: " + name
}

// Inline reports whether the shell may run a tool in its own process: it ends
// soon, reads no standard input and touches no file.
func Inline(name string) bool {
	switch name {
	case "basename", "dirname", "expr":
		return true
	}
	return false
}

// Refused says what to use instead of a program that is not there, or "".
func Refused(name string) string {
	switch name {
	case "vi", "vim", "nano", "emacs", "ed", "ex", "pico":
		return "there is no terminal: edit with sed -i, patch, or cat > FILE <<'EOF'"
	case "apt", "apt-get", "yum", "dnf", "apk", "pip", "pip3", "npm", "brew":
		return "nothing can be installed in this sandbox"
	case "curl", "wget", "ssh", "scp", "nc", "ping", "git":
		return "there is no network in this sandbox"
	case "python", "python3", "node", "perl", "ruby", "gcc", "make", "go":
		return "not in this sandbox; awk, jq, sed and the shell are"
	case "top", "htop", "watch", "man", "sudo", "su", "tmux", "screen":
		return "there is no terminal and one user, root"
	}
	return ""
}
