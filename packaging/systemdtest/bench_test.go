package systemdtest

import (
	"slices"
	"strconv"
	"strings"
	"testing"
)

// BenchmarkActivation is what a client waits for that finds the service
// stopped: from connect to initialize answered. What a program that does
// nothing costs is systemd and the machine; what the unit's hardening adds
// is systemd's work too, before the daemon starts.
func BenchmarkActivation(b *testing.B) {
	m := boot(b)
	m.install()
	m.driver()
	m.write(config, "[profiles.debian]\nbackend = \"docker\"\n")
	m.run("systemctl enable --now kilntainers.socket")
	const unhardened = "sed '/^CapabilityBoundingSet=/,/^SystemCallErrorNumber=/d' /usr/lib/systemd/system/kilntainers.service >/etc/systemd/system/kilntainers.service"
	for _, unit := range []struct{ name, prepare string }{
		{"nothing", unhardened + " && sed -i 's|^ExecStart=.*|ExecStart=/opt/load --stand-in|' /etc/systemd/system/kilntainers.service"},
		{"plain", unhardened},
		{"hardened", "rm /etc/systemd/system/kilntainers.service"},
	} {
		m.run(unit.prepare + " && systemctl daemon-reload")
		b.Run(unit.name, func(b *testing.B) {
			m := &machine{b, m.id}
			var took []float64
			for b.Loop() {
				for _, line := range strings.Fields(m.run("/opt/load --profile debian --activations 10")) {
					ms, err := strconv.ParseFloat(line, 64)
					if err != nil {
						b.Fatal(err)
					}
					took = append(took, ms)
				}
			}
			slices.Sort(took)
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(took[len(took)/2], "p50-ms")
		})
	}
}
