package applets

import (
	"strconv"
	"strings"
	"time"
)

// awkStrftime is strftime([format [, seconds [, utc]]]). goawk fills absent
// arguments with zero values, so seconds below zero cannot be told from none.
func awkStrftime(format string, seconds float64, utc bool) string {
	t := time.Now()
	if seconds > 0 {
		t = time.Unix(int64(seconds), 0)
	}
	if utc {
		t = t.UTC()
	}
	if format == "" {
		format = "%a %b %e %H:%M:%S %Z %Y"
	}
	return strftime(format, t)
}

func awkSystime() float64 { return float64(time.Now().Unix()) }

// awkMktime is mktime("YYYY MM DD HH MM SS").
func awkMktime(spec string) float64 {
	var n [6]int
	f := strings.Fields(spec)
	if len(f) < 6 {
		return -1
	}
	for i := range n {
		v, err := strconv.Atoi(f[i])
		if err != nil {
			return -1
		}
		n[i] = v
	}
	return float64(time.Date(n[0], time.Month(n[1]), n[2], n[3], n[4], n[5], 0, time.Local).Unix())
}

// awkStrtonum reads hexadecimal, octal and decimal numbers.
func awkStrtonum(s string) float64 {
	s = strings.TrimSpace(s)
	if n, err := strconv.ParseInt(s, 0, 64); err == nil {
		return float64(n)
	}
	for end := len(s); end > 0; end-- {
		if f, err := strconv.ParseFloat(s[:end], 64); err == nil {
			return f
		}
	}
	return 0
}
