package applets

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/kilntainers/kilntainers/backends/wasm/guest/sys"
)

// strftime formats a time as date +FORMAT does.
func strftime(f string, t time.Time) string {
	var b strings.Builder
	for i := 0; i < len(f); i++ {
		if f[i] != '%' || i+1 == len(f) {
			b.WriteByte(f[i])
			continue
		}
		start := i
		i++
		pad, upper := byte(0), false
		for i < len(f) && strings.IndexByte("-_0^#", f[i]) >= 0 {
			if f[i] == '^' {
				upper = true
			} else {
				pad = f[i]
			}
			i++
		}
		width, end, hasWidth := digits(f, i, 4, 10)
		i = end
		colons := 0
		for i < len(f) && f[i] == ':' {
			colons++
			i++
		}
		for i < len(f) && (f[i] == 'E' || f[i] == 'O') {
			i++
		}
		if i == len(f) {
			b.WriteString(f[start:])
			break
		}
		num := func(n, w int, def byte) string {
			p := def
			if pad != 0 {
				p = pad
			}
			if hasWidth {
				w = width
			}
			switch p {
			case '-':
				return strconv.Itoa(n)
			case '_':
				return fmt.Sprintf("%*d", w, n)
			}
			return fmt.Sprintf("%0*d", w, n)
		}
		h12 := t.Hour() % 12
		if h12 == 0 {
			h12 = 12
		}
		s := ""
		switch f[i] {
		case '%':
			s = "%"
		case 'a':
			s = t.Format("Mon")
		case 'A':
			s = t.Format("Monday")
		case 'b', 'h':
			s = t.Format("Jan")
		case 'B':
			s = t.Format("January")
		case 'c':
			s = t.Format("Mon Jan _2 15:04:05 2006")
		case 'C':
			s = num(t.Year()/100, 2, '0')
		case 'd':
			s = num(t.Day(), 2, '0')
		case 'D', 'x':
			s = t.Format("01/02/06")
		case 'e':
			s = num(t.Day(), 2, '_')
		case 'F':
			s = t.Format("2006-01-02")
		case 'g':
			y, _ := t.ISOWeek()
			s = num(y%100, 2, '0')
		case 'G':
			y, _ := t.ISOWeek()
			s = num(y, 4, '0')
		case 'H':
			s = num(t.Hour(), 2, '0')
		case 'I':
			s = num(h12, 2, '0')
		case 'j':
			s = num(t.YearDay(), 3, '0')
		case 'k':
			s = num(t.Hour(), 2, '_')
		case 'l':
			s = num(h12, 2, '_')
		case 'm':
			s = num(int(t.Month()), 2, '0')
		case 'M':
			s = num(t.Minute(), 2, '0')
		case 'n':
			s = "\n"
		case 'N':
			w := 9
			if hasWidth {
				w = width
			}
			s = fmt.Sprintf("%09d", t.Nanosecond())[:min(w, 9)]
			if pad == '-' {
				s = strconv.Itoa(t.Nanosecond())
			}
		case 'p':
			s = t.Format("PM")
		case 'P':
			s = strings.ToLower(t.Format("PM"))
		case 'q':
			s = strconv.Itoa((int(t.Month())-1)/3 + 1)
		case 'r':
			s = t.Format("03:04:05 PM")
		case 'R':
			s = t.Format("15:04")
		case 's':
			s = strconv.FormatInt(t.Unix(), 10)
		case 'S':
			s = num(t.Second(), 2, '0')
		case 't':
			s = "\t"
		case 'T', 'X':
			s = t.Format("15:04:05")
		case 'u':
			s = strconv.Itoa((int(t.Weekday())+6)%7 + 1)
		case 'U':
			s = num((t.YearDay()+6-int(t.Weekday()))/7, 2, '0')
		case 'V':
			_, w := t.ISOWeek()
			s = num(w, 2, '0')
		case 'w':
			s = strconv.Itoa(int(t.Weekday()))
		case 'W':
			s = num((t.YearDay()+6-(int(t.Weekday())+6)%7)/7, 2, '0')
		case 'y':
			s = num(t.Year()%100, 2, '0')
		case 'Y':
			s = num(t.Year(), 4, '0')
			if !hasWidth && pad == 0 {
				s = strconv.Itoa(t.Year())
			}
		case 'z':
			s = t.Format(map[int]string{0: "-0700", 1: "-07:00", 2: "-07:00:00"}[min(colons, 2)])
		case 'Z':
			s = t.Format("MST")
		default:
			s = f[start : i+1]
		}
		if upper {
			s = strings.ToUpper(s)
		}
		if hasWidth && len(s) < width {
			fill := " "
			if pad == '0' {
				fill = "0"
			}
			s = strings.Repeat(fill, width-len(s)) + s
		}
		b.WriteString(s)
	}
	return b.String()
}

var errDate = errors.New("invalid date")

// parseDate reads the dates of date -d: absolute ones in several forms, @seconds,
// and relative items such as "yesterday", "2 days ago", "next month".
func parseDate(s string, now time.Time) (time.Time, error) {
	s = strings.TrimSpace(s)
	if sec, ok := strings.CutPrefix(s, "@"); ok {
		f, err := strconv.ParseFloat(sec, 64)
		if err != nil {
			return now, errDate
		}
		whole, frac, _ := strings.Cut(sec, ".")
		n, err := strconv.ParseInt(whole, 10, 64)
		if err != nil {
			n = int64(f)
		}
		ns, _ := strconv.ParseInt((frac + "000000000")[:9], 10, 64)
		return time.Unix(n, ns).In(now.Location()), nil
	}
	d := &dateParser{t: now, loc: now.Location()}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05Z07:00", "2006-01-02T15:04:05-0700", "2006-01-02 15:04:05 -0700",
		"2006-01-02 15:04:05Z07:00", "Mon, 02 Jan 2006 15:04:05 -0700", "Mon, 2 Jan 2006 15:04:05 MST", "Mon Jan _2 15:04:05 MST 2006", "Mon Jan 2 15:04:05 2006"} {
		if t, err := time.ParseInLocation(layout, s, d.loc); err == nil {
			return t.In(d.loc), nil
		}
	}
	d.words = strings.Fields(splitDateWords(s))
	return d.parse()
}

// splitDateWords separates numbers from letters ("2days", "10:00pm").
func splitDateWords(s string) string {
	s = strings.ReplaceAll(strings.ToLower(s), ",", " ")
	var b strings.Builder
	class := func(c byte) int {
		switch {
		case 'a' <= c && c <= 'z':
			return 1
		case '0' <= c && c <= '9' || c == ':' || c == '.':
			return 2
		}
		return 0
	}
	for i := range len(s) {
		if i > 0 {
			a, c := class(s[i-1]), class(s[i])
			if a == 2 && c == 1 && s[i] != 't' || a == 1 && c == 2 && s[i-1] != 't' {
				b.WriteByte(' ')
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

type dateParser struct {
	words                                     []string
	t                                         time.Time
	loc                                       *time.Location
	date, clock                               bool
	years, months, days                       int
	delta                                     time.Duration
	weekday                                   int // 1 + weekday, 0 none
	weekdayStep                               int
	year, day, hour, minute, second, nanosecs int
	month                                     time.Month
}

var monthNames = "janfebmaraprmayjunjulaugsepoctnovdec"
var dayNames = "sunmontuewedthufrisat"

func nameIndex(names, w string) int {
	if len(w) < 3 {
		return -1
	}
	i := strings.Index(names, w[:3])
	if i < 0 || i%3 != 0 {
		return -1
	}
	return i / 3
}

func (d *dateParser) parse() (time.Time, error) {
	d.year, d.month, d.day = d.t.Date()
	d.hour, d.minute, d.second = d.t.Clock()
	d.nanosecs = d.t.Nanosecond()
	for len(d.words) > 0 {
		if !d.item() {
			return d.t, errDate
		}
	}
	if d.date && !d.clock || d.weekday > 0 && !d.clock {
		d.hour, d.minute, d.second, d.nanosecs = 0, 0, 0, 0
	}
	t := time.Date(d.year+d.years, d.month+time.Month(d.months), d.day+d.days, d.hour, d.minute, d.second, d.nanosecs, d.loc).Add(d.delta)
	if d.weekday > 0 {
		ahead := (d.weekday - 1 - int(t.Weekday()) + 7) % 7
		if d.weekdayStep > 0 && ahead > 0 {
			ahead += 7 * (d.weekdayStep - 1)
		} else {
			ahead += 7 * d.weekdayStep
		}
		t = t.AddDate(0, 0, ahead)
	}
	return t, nil
}

func (d *dateParser) pop() string {
	w := d.words[0]
	d.words = d.words[1:]
	return w
}

func (d *dateParser) next() string {
	if len(d.words) == 0 {
		return ""
	}
	return d.words[0]
}

func (d *dateParser) item() bool {
	w := d.pop()
	switch w {
	case "now", "at", "on", "of", "and":
		return true
	case "today":
		return true
	case "midnight":
		d.hour, d.minute, d.second, d.nanosecs, d.clock = 0, 0, 0, 0, true
		return true
	case "noon":
		d.hour, d.minute, d.second, d.nanosecs, d.clock = 12, 0, 0, 0, true
		return true
	case "tomorrow":
		d.days++
		return true
	case "yesterday":
		d.days--
		return true
	case "utc", "gmt", "z":
		d.loc = time.UTC
		return true
	case "next", "last", "this":
		n := map[string]int{"next": 1, "last": -1, "this": 0}[w]
		if i := nameIndex(dayNames, d.next()); i >= 0 {
			d.pop()
			d.weekday, d.weekdayStep = i+1, n
			return true
		}
		return len(d.words) > 0 && d.relative(n, d.pop())
	}
	if i := nameIndex(dayNames, w); i >= 0 && w != "second" && w != "month" {
		d.weekday = i + 1
		return true
	}
	if i := nameIndex(monthNames, w); i >= 0 && !strings.HasPrefix(w, "sec") {
		d.month, d.date = time.Month(i+1), true
		if n, err := strconv.Atoi(d.next()); err == nil && n <= 31 {
			d.day = n
			d.pop()
		}
		if n, err := strconv.Atoi(d.next()); err == nil && n > 31 {
			d.year = n
			d.pop()
		}
		return true
	}
	if d.relative(1, w) {
		return true
	}
	return d.numeric(w)
}

// relative applies n units, backwards if "ago" follows.
func (d *dateParser) relative(n int, unit string) bool {
	u := strings.TrimSuffix(unit, "s")
	switch u {
	case "year", "month", "week", "fortnight", "day", "hour", "minute", "min", "second", "sec":
	default:
		return false
	}
	if d.next() == "ago" {
		d.pop()
		n = -n
	}
	switch u {
	case "year":
		d.years += n
	case "month":
		d.months += n
	case "week":
		d.days += 7 * n
	case "fortnight":
		d.days += 14 * n
	case "day":
		d.days += n
	case "hour":
		d.delta += time.Duration(n) * time.Hour
	case "minute", "min":
		d.delta += time.Duration(n) * time.Minute
	case "second", "sec":
		d.delta += time.Duration(n) * time.Second
	}
	return true
}

func (d *dateParser) numeric(w string) bool {
	if strings.Contains(w, ":") {
		return d.clockTime(w)
	}
	if day, clock, ok := strings.Cut(w, "t"); ok && strings.Contains(clock, ":") {
		return d.numeric(day) && d.clockTime(strings.TrimSuffix(clock, "z"))
	}
	sign := 1
	digitsOnly := w
	if w[0] == '+' || w[0] == '-' {
		if w[0] == '-' {
			sign = -1
		}
		digitsOnly = w[1:]
		if digitsOnly == "" && len(d.words) > 0 {
			digitsOnly = d.pop()
		}
	}
	if n, err := strconv.Atoi(digitsOnly); err == nil {
		if len(d.words) > 0 && d.relative(sign*n, d.next()) {
			// relative looked one word ahead for "ago"; take the unit too.
			d.pop()
			return true
		}
		if i := nameIndex(monthNames, d.next()); i >= 0 && n <= 31 {
			d.pop()
			d.day, d.month, d.date = n, time.Month(i+1), true
			if y, err := strconv.Atoi(d.next()); err == nil && y > 31 {
				d.year = y
				d.pop()
			}
			return true
		}
		switch nx := d.next(); {
		case nx == "am" || nx == "pm":
			d.pop()
			return d.hourOf(n, nx)
		case len(w) == 8:
			d.year, d.month, d.day, d.date = n/10000, time.Month(n/100%100), n%100, true
			return d.month >= 1 && d.month <= 12 && d.day >= 1 && d.day <= 31
		case len(w) == 4 && d.date && d.clock:
			d.year = n
			return true
		case len(w) == 4:
			d.hour, d.minute, d.second, d.nanosecs, d.clock = n/100, n%100, 0, 0, true
			return d.hour < 24 && d.minute < 60
		case len(w) <= 2 && sign == 1 && w[0] != '+':
			d.hour, d.minute, d.second, d.nanosecs, d.clock = n, 0, 0, 0, true
			return n < 24
		}
		return false
	}
	if f := strings.Split(w, "-"); len(f) == 3 {
		y, e1 := strconv.Atoi(f[0])
		m, e2 := strconv.Atoi(f[1])
		if i := nameIndex(monthNames, f[1]); i >= 0 {
			m, e2 = i+1, nil
		}
		day, e3 := strconv.Atoi(f[2])
		if len(f[0]) <= 2 && len(f[2]) == 4 {
			y, day = day, y
		}
		if e1 != nil || e2 != nil || e3 != nil || m < 1 || m > 12 || day < 1 || day > 31 {
			return false
		}
		if t := time.Date(y, time.Month(m), day, 12, 0, 0, 0, time.UTC); t.Day() != day {
			return false
		}
		d.year, d.month, d.day, d.date = y, time.Month(m), day, true
		return true
	}
	if f := strings.Split(w, "/"); len(f) == 3 || len(f) == 2 {
		var n [3]int
		for i, s := range f {
			v, err := strconv.Atoi(s)
			if err != nil {
				return false
			}
			n[i] = v
		}
		if len(f[0]) == 4 {
			n[0], n[1], n[2] = n[1], n[2], n[0]
		}
		d.month, d.day, d.date = time.Month(n[0]), n[1], true
		if len(f) == 3 {
			d.year = n[2]
			if d.year < 69 {
				d.year += 2000
			} else if d.year < 100 {
				d.year += 1900
			}
		}
		return d.month >= 1 && d.month <= 12
	}
	return false
}

func (d *dateParser) clockTime(w string) bool {
	zone := ""
	if i := strings.IndexAny(w, "+-"); i > 0 {
		w, zone = w[:i], w[i:]
	} else if n := d.next(); len(n) >= 5 && (n[0] == '+' || n[0] == '-') {
		if _, err := strconv.Atoi(strings.ReplaceAll(n[1:], ":", "")); err == nil && len(strings.ReplaceAll(n[1:], ":", "")) == 4 {
			zone = d.pop()
		}
	}
	f := strings.Split(w, ":")
	if len(f) < 2 || len(f) > 3 {
		return false
	}
	h, e1 := strconv.Atoi(f[0])
	m, e2 := strconv.Atoi(f[1])
	sec, ns := 0, 0
	if len(f) == 3 {
		whole, frac, _ := strings.Cut(f[2], ".")
		v, err := strconv.Atoi(whole)
		if err != nil {
			return false
		}
		sec = v
		ns, _ = strconv.Atoi((frac + "000000000")[:9])
	}
	if e1 != nil || e2 != nil || h > 24 || m > 59 || sec > 60 {
		return false
	}
	d.hour, d.minute, d.second, d.nanosecs, d.clock = h, m, sec, ns, true
	if zone != "" {
		t, err := time.Parse("-0700", strings.ReplaceAll(zone, ":", ""))
		if err != nil {
			return false
		}
		_, off := t.Zone()
		_, local := time.Date(d.year, d.month, d.day, h, m, sec, 0, d.loc).Zone()
		d.delta += time.Duration(local-off) * time.Second
	}
	if n := d.next(); n == "am" || n == "pm" {
		d.pop()
		return d.hourOf(h, n)
	}
	return true
}

func (d *dateParser) hourOf(h int, half string) bool {
	if h < 1 || h > 12 {
		return false
	}
	if !d.clock {
		d.minute, d.second, d.nanosecs = 0, 0, 0
	}
	d.hour, d.clock = h%12, true
	if half == "pm" {
		d.hour += 12
	}
	return true
}

func date(c *Ctx) {
	o := c.options("d:f:I::r:Rs:u", "date=d file=f iso-8601? reference=r rfc-email=R rfc-2822=R rfc-822=R rfc-3339: set=s utc=u universal=u debug")
	t := time.Now()
	utc := os.Getenv("TZ") == "UTC0"
	format, when, ref := "", "", ""
	hasDate := false
	iso := func(arg string) string {
		switch arg {
		case "", "date":
			return "%Y-%m-%d"
		case "hours":
			return "%Y-%m-%dT%H%:z"
		case "minutes":
			return "%Y-%m-%dT%H:%M%:z"
		case "seconds":
			return "%Y-%m-%dT%H:%M:%S%:z"
		case "ns":
			return "%Y-%m-%dT%H:%M:%S,%N%:z"
		}
		c.die("invalid argument %s for '--iso-8601'", quote(arg))
		return ""
	}
	file := ""
	for o.next() {
		switch o.opt {
		case "d":
			when, hasDate = o.arg, true
		case "f":
			file = o.arg
		case "I", "iso-8601":
			format = iso(o.arg)
		case "r":
			ref = o.arg
		case "R":
			format = "%a, %d %b %Y %H:%M:%S %z"
		case "rfc-3339":
			format = map[string]string{"date": "%Y-%m-%d", "seconds": "%Y-%m-%d %H:%M:%S%:z", "ns": "%Y-%m-%d %H:%M:%S.%N%:z"}[o.arg]
			if format == "" {
				c.die("invalid argument %s for '--rfc-3339'", quote(o.arg))
			}
		case "s":
			c.die("cannot set date: Operation not permitted")
		case "u":
			utc = true
		}
	}
	for _, a := range o.args {
		if !strings.HasPrefix(a, "+") {
			c.die("invalid date %s", quote(a))
		}
		if format != "" {
			c.die("multiple output formats specified")
		}
		format = a[1:]
	}
	if format == "" && len(o.args) == 0 {
		format = "%a %b %e %H:%M:%S %Z %Y"
	}
	if utc {
		t = t.UTC()
	}
	show := func(s string) {
		v, err := parseDate(s, t)
		if err != nil {
			c.fail("invalid date %s", quote(s))
			return
		}
		if utc {
			v = v.UTC()
		}
		c.println(strftime(format, v))
	}
	switch {
	case file != "":
		for _, l := range c.allLines([]string{file}) {
			show(l)
		}
	case hasDate:
		if strings.TrimSpace(when) == "" {
			when = "00:00"
		}
		show(when)
	case ref != "":
		i, err := sys.Stat(ref)
		if err != nil {
			c.die("%s: %s", ref, Strerror(err))
		}
		v := time.Unix(0, i.Mtime)
		if utc {
			v = v.UTC()
		}
		c.println(strftime(format, v))
	default:
		c.println(strftime(format, t))
	}
}

func cal(c *Ctx) {
	now := time.Now()
	y, m := now.Year(), int(now.Month())
	args := c.operands()
	whole := false
	switch len(args) {
	case 1:
		y, _ = strconv.Atoi(args[0])
		whole = true
	case 2:
		m, _ = strconv.Atoi(args[0])
		y, _ = strconv.Atoi(args[1])
	}
	month := func(m int) []string {
		first := time.Date(y, time.Month(m), 1, 0, 0, 0, 0, time.UTC)
		last := first.AddDate(0, 1, -1).Day()
		title := first.Format("January 2006")
		if whole {
			title = first.Format("January")
		}
		pad := (20 - len(title)) / 2
		rows := []string{fmt.Sprintf("%-20s", strings.Repeat(" ", pad)+title), "Su Mo Tu We Th Fr Sa"}
		line := strings.Repeat("   ", int(first.Weekday()))
		for d := 1; d <= last; d++ {
			line += fmt.Sprintf("%2d ", d)
			if len(line) == 21 {
				rows = append(rows, line[:20])
				line = ""
			}
		}
		rows = append(rows, fmt.Sprintf("%-20s", strings.TrimRight(line, " ")))
		for len(rows) < 8 {
			rows = append(rows, strings.Repeat(" ", 20))
		}
		return rows[:8]
	}
	if !whole {
		for _, r := range month(m) {
			c.println(r)
		}
		return
	}
	c.printf("%33d\n\n", y)
	for q := 1; q <= 12; q += 3 {
		a, b, d := month(q), month(q+1), month(q+2)
		for i := range a {
			c.println(a[i] + "  " + b[i] + "  " + d[i])
		}
	}
}
