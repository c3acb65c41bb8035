# Tells, from what go test -json writes, why tests were skipped: each reason
# once, and for how many. "install" and "needs" are what one can do about it.

function field(name) {
	if (!match($0, "\"" name "\":\"([^\"\\\\]|\\\\.)*\""))
		return ""
	return substr($0, RSTART + length(name) + 4, RLENGTH - length(name) - 5)
}

/"Action":"output"/ && /\.go:[0-9]+: / {
	reason = field("Output")
	sub(/^ *[^ ]*\.go:[0-9]+: /, "", reason)
	sub(/\\n$/, "", reason)
	said[field("Package") " " field("Test")] = reason
}

/"Action":"skip"/ && /"Test":/ {
	reason = said[field("Package") " " field("Test")]
	gsub(/\\"/, "\"", reason)
	gsub(/\\u003c/, "<", reason)
	gsub(/\\u003e/, ">", reason)
	skipped[reason]++
	any = 1
}

END {
	if (any)
		print "\nSkipped, and why:"
	for (reason in skipped)
		printf "%5d  %s\n", skipped[reason], reason | "sort -rn"
}
