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

// awkConstants writes gawk's hexadecimal and octal constants in decimal, which
// is all that goawk reads. Strings, regular expressions and comments stay.
func awkConstants(src string) string {
	if !strings.ContainsAny(src, "0") {
		return src
	}
	var b strings.Builder
	operand := false // a value came last, so / divides
	name := func(c byte) bool {
		return c == '_' || '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'z'
	}
	for i := 0; i < len(src); {
		c, j := src[i], i+1
		switch {
		case c == '"' || c == '/' && !operand:
			bracket := false
			for ; j < len(src) && src[j] != '\n' && (src[j] != c || bracket); j++ {
				switch {
				case src[j] == '\\':
					j++
				case c == '/' && src[j] == '[':
					bracket = true
				case src[j] == ']':
					bracket = false
				}
			}
			j = min(j+1, len(src))
			operand = true
		case c == '#':
			for j < len(src) && src[j] != '\n' {
				j++
			}
		case name(c):
			for j < len(src) && (name(src[j]) || src[j] == '.' && c <= '9') {
				j++
			}
			word := src[i:j]
			operand = word != "print" && word != "return" && word != "in" && word != "case"
			if n, err := strconv.ParseUint(word, 0, 64); c == '0' && len(word) > 1 && err == nil && !strings.ContainsAny(word, "_boBO") {
				b.WriteString(strconv.FormatUint(n, 10))
				i = j
				continue
			}
		case c != ' ' && c != '\t':
			operand = c == ')' || c == ']' || c == '$'
		}
		b.WriteString(src[i:j])
		i = j
	}
	return b.String()
}
