# Makes a table of what go test -bench writes. p50-ms is the median where the
# benchmark tells it, else the mean; x-host is how many times this machine's
# own fork and exec that is. At the end the backends stand side by side.

/^pkg:/ {
	sub(/^.*kilntainers\//, "", $2)
	printf "\n%-40s %10s %10s %8s\n", $2, "p50-ms", "p99-ms", "x-host"
}

/^Benchmark[^ \t]*[ \t]+[0-9]+[ \t]/ {
	name = $1
	sub(/^Benchmark/, "", name)
	sub(/-[0-9]+$/, "", name)
	split("", value)
	rest = ""
	for (i = 3; i < NF; i += 2) {
		unit = $(i + 1)
		value[unit] = $i
		if (unit !~ /^(ns\/op|p50-ms|p99-ms|x-host)$/)
			rest = rest "  " $i " " unit
	}
	p50 = "p50-ms" in value ? value["p50-ms"] : value["ns/op"] / 1e6
	printf "  %-38s %10s %10s %8s%s\n", name, p50 ? sprintf("%.4g", p50) : "", value["p99-ms"], value["x-host"], rest
	if (name ~ /^(Docker|Podman|Busybox)\//) { # what backendtest measures of each
		split(name, part, "/")
		if (!(part[2] in seen))
			lines[++n] = part[2]
		seen[part[2]] = 1
		beside[part[1], part[2]] = p50
	}
}

/^--- |^ +--- |_test.go:/ { print } # what was skipped or failed, and why

END {
	if (!n)
		exit
	printf "\n%-40s %10s %10s %10s\n", "side by side, p50-ms", "docker", "podman", "go_busybox"
	for (i = 1; i <= n; i++)
		printf "  %-38s %10s %10s %10s\n", lines[i], figure("Docker"), figure("Podman"), figure("Busybox")
}

function figure(backend) {
	return (backend, lines[i]) in beside ? sprintf("%.4g", beside[backend, lines[i]]) : "-"
}
