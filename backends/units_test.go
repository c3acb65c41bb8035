package backends

import (
	"math"
	"strings"
	"testing"
	"time"
)

func TestParseSize(t *testing.T) {
	for text, want := range map[string]Size{
		"0": 0, "1": 1, "1048576": 1 << 20, "1b": 1, "100 B": 100,
		"512k": 512 << 10, "512K": 512 << 10, "512kb": 512 << 10, "64 KiB": 64 << 10, "64kib": 64 << 10,
		"512m": 512 << 20, "2MiB": 2 << 20, " 1g ": 1 << 30, "1.5g": 3 << 29, "0.5k": 512, "1t": 1 << 40, ".5k": 512,
		"7t": 7 << 40, "9223372036854774784": math.MaxInt64 - 1023,
	} {
		if got, err := ParseSize(text); got != want || err != nil {
			t.Errorf("%q: got %d, %v; want %d", text, got, err, want)
		}
	}
	for text, want := range map[string]string{
		"": "is not a size", "m": "is not a size", "1x": "is not a size", "1 m b": "is not a size", "one": "is not a size",
		"1e3": "is not a size", "0x10": "is not a size", "1_000": "is not a size", "inf": "is not a size", "nan": "is not a size",
		"1ki": "is not a size", "1ibk": "is not a size", "1,5g": "is not a size", "1.2.3": "is not a size", "--1": "is not a size",
		"-1": "is out of range", "-1k": "is out of range", "9999999999999g": "is out of range", "8388608t": "is out of range",
		"9223372036854775808": "is out of range", "9223372036854775807": "is out of range",
	} {
		if got, err := ParseSize(text); err == nil || got != 0 || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "; ") {
			t.Errorf("%q: got %d, %v; want an error that says %q and what would be right", text, got, err, want)
		}
	}
}

func TestSizeFromTOML(t *testing.T) {
	for _, k := range []struct {
		in   any
		want Size
		err  string
	}{
		{int64(1048576), 1 << 20, ""},
		{int64(0), 0, ""},
		{"512m", 512 << 20, ""},
		{int64(-1), 0, "-1 is negative"},
		{"1x", 0, `"1x" is not a size`},
		{1.5, 0, "not a number with a fraction"},
		{true, 0, "not a boolean"},
		{[]any{"1m"}, 0, "not an array"},
		{map[string]any{}, 0, "not a table"},
		{[]map[string]any{}, 0, "not a table"},
		{time.Now(), 0, "not a date"},
	} {
		var z Size
		err := z.UnmarshalTOML(k.in)
		if k.err == "" && (err != nil || z != k.want) || k.err != "" && (err == nil || !strings.Contains(err.Error(), k.err)) {
			t.Errorf("%v: got %d, %v; want %d, %q", k.in, z, err, k.want, k.err)
		}
	}
}

func TestSizeString(t *testing.T) {
	for z, want := range map[Size]string{
		0: "0", 1: "1", 1023: "1023", 1024: "1k", 1536: "1536", 512 << 20: "512m", 1 << 30: "1g", 3 << 29: "1536m", 1 << 40: "1t", 1 << 50: "1024t",
	} {
		if got := z.String(); got != want {
			t.Errorf("%d: got %q, want %q", int64(z), got, want)
		}
	}
}

func TestDurations(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"90s": 90 * time.Second, "5m": 5 * time.Minute, "1h30m": 90 * time.Minute, " 1s ": time.Second, "0": 0, "1.5s": 1500 * time.Millisecond, "250ms": 250 * time.Millisecond,
	} {
		if got, err := ParseDuration(text); got.D() != want || err != nil {
			t.Errorf("%q: got %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "90", "-1s", "1x", "s", "1 s", "1d", "9999999", "9999999hh", "."} {
		if got, err := ParseDuration(text); err == nil || got != 0 || !strings.Contains(err.Error(), "is not a duration; write") {
			t.Errorf("%q: got %v, %v; want an error that says what would be right", text, got, err)
		}
	}
	for text, good := range map[string]bool{
		"2562047h": true, "2562048h": false, "10000000h": false, " 2562047h48m ": false, "9223372036.9s": false, "99999999999999999999ns": false,
	} {
		_, err := ParseDuration(text)
		if want := `is out of range; a duration is at most "2562047h"`; !good && (err == nil || !strings.Contains(err.Error(), want)) || good && err != nil {
			t.Errorf("%q: got %v; want good: %v, else %q", text, err, good, want)
		}
	}
	for _, k := range []struct {
		in   any
		want time.Duration
		err  string
	}{
		{int64(120), 2 * time.Minute, ""},
		{int64(0), 0, ""},
		{"90s", 90 * time.Second, ""},
		{int64(-5), 0, "-5 seconds is out of range"},
		{int64(math.MaxInt64), 0, "out of range; write whole seconds from 0 to 9223372036"},
		{"5", 0, "is not a duration"},
		{0.5, 0, "not a number with a fraction"},
		{false, 0, "not a boolean"},
	} {
		var d Duration
		err := d.UnmarshalTOML(k.in)
		if k.err == "" && (err != nil || d.D() != k.want) || k.err != "" && (err == nil || !strings.Contains(err.Error(), k.err)) {
			t.Errorf("%v: got %v, %v; want %v, %q", k.in, d, err, k.want, k.err)
		}
	}
	for d, want := range map[Duration]string{
		0: "0s", Duration(2 * time.Minute): "120s", Duration(1500 * time.Millisecond): "1.5s",
	} {
		if got := d.String(); got != want {
			t.Errorf("%d: got %q, want %q", int64(d), got, want)
		}
	}
}

// What a size says of itself is read back as the same size.
func FuzzSize(f *testing.F) {
	for _, seed := range []string{"1", "512m", "1.5g", "64 KiB", "-1", "1e9", "9223372036854775807", "0x1p4", "\x00", "1 t"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		z, err := ParseSize(text)
		if err != nil {
			if z != 0 {
				t.Errorf("%q: %d with error %v", text, z, err)
			}
			return
		}
		if z < 0 {
			t.Fatalf("%q: %d", text, z)
		}
		if again, err := ParseSize(z.String()); err != nil || (again != z && z < 1<<53) {
			t.Errorf("%q is %v, which reads as %v, %v", text, z, again, err)
		}
	})
}

// The same for a duration.
func FuzzDuration(f *testing.F) {
	for _, seed := range []string{"90s", "5m", "1h30m", "-1s", "1.5s", "9223372036s", "", "1µs"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		d, err := ParseDuration(text)
		if err != nil {
			return
		}
		if again, err := ParseDuration(d.String()); err != nil || again != d || d < 0 {
			t.Errorf("%q is %v, which reads as %v, %v", text, d, again, err)
		}
	})
}
