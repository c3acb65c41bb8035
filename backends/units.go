package backends

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Size is a number of bytes. In a profile it is a whole number of bytes, or a
// string with a binary unit, as the docker CLI takes them: "512k", "512m",
// "1g", "2MiB", "64 KiB". All units are powers of 1024.
type Size int64

// ParseSize reads a Size as a profile writes it. Its errors say what would be
// right.
func ParseSize(s string) (Size, error) {
	t := strings.ToLower(strings.TrimSpace(s))
	digits := strings.TrimRight(t, "abcdefghijklmnopqrstuvwxyz ")
	unit := strings.TrimSpace(t[len(digits):])
	unit = strings.TrimSuffix(strings.TrimSuffix(unit, "ib"), "b")
	shift, ok := map[string]uint{"": 0, "k": 10, "m": 20, "g": 30, "t": 40}[unit]
	n, err := strconv.ParseFloat(digits, 64)
	if !ok || err != nil || digits == "" || strings.ContainsAny(digits, "einx_") {
		return 0, fmt.Errorf("%q is not a size; write bytes (1048576) or a number with k, m, g or t (\"512m\", \"2MiB\")", s)
	}
	if v := n * float64(int64(1)<<shift); n >= 0 && v < math.MaxInt64 {
		return Size(v), nil
	}
	return 0, fmt.Errorf("%q is out of range; a size is between 0 and 8 EiB", s)
}

// UnmarshalTOML reads a whole number of bytes or a string.
func (z *Size) UnmarshalTOML(v any) (err error) {
	switch v := v.(type) {
	case int64:
		if v < 0 {
			return fmt.Errorf("%d is negative; write bytes (1048576) or a string (\"512m\")", v)
		}
		*z = Size(v)
	case string:
		*z, err = ParseSize(v)
	default:
		err = fmt.Errorf("want a size: bytes (1048576) or a string (\"512m\"), not %s", tomlKind(v))
	}
	return err
}

// String writes the size with the largest unit that keeps it whole: "512m".
func (z Size) String() string {
	for _, u := range []struct {
		shift uint
		name  string
	}{{40, "t"}, {30, "g"}, {20, "m"}, {10, "k"}} {
		if z != 0 && z%(1<<u.shift) == 0 {
			return strconv.FormatInt(int64(z>>u.shift), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(z), 10)
}

// Duration is a span of time. In a profile it is a whole number of seconds or
// a string as Go writes it: "90s", "5m", "1h30m".
type Duration time.Duration

// isDuration reports whether s is written as time.ParseDuration takes it: what
// it refuses all the same is too long.
var isDuration = regexp.MustCompile(`^\+?(([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+$`).MatchString

// ParseDuration reads a Duration as a profile writes it.
func ParseDuration(s string) (Duration, error) {
	t := strings.TrimSpace(s)
	d, err := time.ParseDuration(t)
	if err != nil && isDuration(t) {
		return 0, fmt.Errorf("%q is out of range; a duration is at most \"%dh\"", s, math.MaxInt64/time.Hour)
	}
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%q is not a duration; write whole seconds (120) or a string (\"90s\", \"5m\")", s)
	}
	return Duration(d), nil
}

// UnmarshalTOML reads whole seconds or a string.
func (d *Duration) UnmarshalTOML(v any) (err error) {
	switch v := v.(type) {
	case int64:
		if v < 0 || v > math.MaxInt64/int64(time.Second) {
			return fmt.Errorf("%d seconds is out of range; write whole seconds from 0 to %d", v, math.MaxInt64/time.Second)
		}
		*d = Duration(time.Duration(v) * time.Second)
	case string:
		*d, err = ParseDuration(v)
	default:
		err = fmt.Errorf("want a duration: whole seconds (120) or a string (\"90s\"), not %s", tomlKind(v))
	}
	return err
}

// D returns d as the standard library's type.
func (d Duration) D() time.Duration { return time.Duration(d) }

// String writes whole seconds as "120s", the rest as Go does.
func (d Duration) String() string {
	if t := d.D(); t%time.Second == 0 {
		return strconv.FormatInt(int64(t/time.Second), 10) + "s"
	}
	return d.D().String()
}

// tomlKind names the TOML type of a decoded value.
func tomlKind(v any) string {
	switch v.(type) {
	case string:
		return "a string"
	case int64:
		return "a whole number"
	case float64:
		return "a number with a fraction"
	case bool:
		return "a boolean"
	case []any:
		return "an array"
	case map[string]any, []map[string]any:
		return "a table"
	default:
		return "a date"
	}
}
