package profiles

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/BurntSushi/toml"
)

// decode stores v, a value of a TOML file, in dst and reports each part of it
// that does not fit with bad. key is where v stands; parts of v are reported
// with theirs, "env.HOME" or "mounts[1].source".
//
// The toml package parses, but what it does next is too lax for a file that
// sets limits: it stops at the first value of a wrong type, takes "Memory" for
// memory, ignores a string where a table is wanted and makes -1 a huge uint.
//
// A table is merged into the map or struct that dst has, key by key;
// everything else replaces what was there. Nothing that dst pointed to before
// is changed. A dst that has UnmarshalTOML decides for itself.
func decode(v any, dst reflect.Value, key string, bad func(key, text string)) {
	if u, ok := dst.Addr().Interface().(toml.Unmarshaler); ok {
		for _, err := range flatten(u.UnmarshalTOML(v)) {
			bad(key, err.Error())
		}
		return
	}
	mismatch := func(want string) { bad(key, mismatch(want, v)) }

	switch dst.Kind() {
	case reflect.String:
		if s, ok := v.(string); ok {
			dst.SetString(s)
		} else {
			mismatch("a string")
		}
	case reflect.Bool:
		if b, ok := v.(bool); ok {
			dst.SetBool(b)
		} else {
			mismatch("true or false")
		}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		switch n, ok := v.(int64); {
		case !ok:
			mismatch("a whole number")
		case dst.OverflowInt(n):
			bad(key, fmt.Sprintf("%d is out of range; it must fit in %d bits", n, dst.Type().Bits()))
		default:
			dst.SetInt(n)
		}
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		switch n, ok := v.(int64); {
		case !ok:
			mismatch("a whole number")
		case n < 0:
			bad(key, fmt.Sprintf("%d is out of range; want 0 or more", n))
		case dst.OverflowUint(uint64(n)):
			bad(key, fmt.Sprintf("%d is out of range; it must fit in %d bits", n, dst.Type().Bits()))
		default:
			dst.SetUint(uint64(n))
		}
	case reflect.Float32, reflect.Float64:
		switch n := v.(type) {
		case int64:
			dst.SetFloat(float64(n))
		case float64:
			if math.IsNaN(n) || math.IsInf(n, 0) {
				bad(key, "want a finite number")
			} else {
				dst.SetFloat(n)
			}
		default:
			mismatch("a number")
		}
	case reflect.Slice:
		items, ok := v.([]any)
		if tables, isTables := v.([]map[string]any); isTables {
			for _, t := range tables {
				items = append(items, t)
			}
			ok = true
		}
		if !ok {
			mismatch("an array")
			return
		}
		if len(items) == 0 {
			dst.SetZero() // as if the key were not there, so that Equal sees no difference
			return
		}
		list := reflect.MakeSlice(dst.Type(), len(items), len(items))
		for i, item := range items {
			decode(item, list.Index(i), fmt.Sprintf("%s[%d]", key, i), bad)
		}
		dst.Set(list)
	case reflect.Map:
		table, ok := v.(map[string]any)
		if !ok {
			mismatch("a table")
			return
		}
		if len(table) == 0 {
			return
		}
		merged := reflect.MakeMap(dst.Type())
		for _, k := range dst.MapKeys() {
			merged.SetMapIndex(k, dst.MapIndex(k))
		}
		for name, item := range table {
			elem := reflect.New(dst.Type().Elem()).Elem()
			decode(item, elem, join(key, name), bad)
			merged.SetMapIndex(reflect.ValueOf(name).Convert(dst.Type().Key()), elem)
		}
		dst.Set(merged)
	case reflect.Struct:
		table, ok := v.(map[string]any)
		if !ok {
			mismatch("a table")
			return
		}
		fields := fieldsOf(dst.Type())
		for name, item := range table {
			if index, ok := fields[name]; ok {
				decode(item, dst.FieldByIndex(index), join(key, name), bad)
			} else {
				bad(join(key, name), unknownKey(name, slices.Collect(maps.Keys(fields))))
			}
		}
	case reflect.Pointer:
		elem := reflect.New(dst.Type().Elem())
		decode(v, elem.Elem(), key, bad)
		dst.Set(elem)
	default:
		panic(fmt.Sprintf("profiles: %s cannot hold a value of a profile", dst.Type()))
	}
}

// fieldsOf returns the fields of a struct by their toml tags, those of
// embedded structs too.
func fieldsOf(t reflect.Type) map[string][]int {
	fields := map[string][]int{}
	for _, f := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(f.Tag.Get("toml"), ",")
		if name != "" && name != "-" && f.IsExported() {
			fields[name] = f.Index
		}
	}
	return fields
}

// join appends a name to a dotted key.
func join(key, name string) string {
	name = toml.Key{name}.String()
	if key == "" {
		return name
	}
	return key + "." + name
}

// flatten returns the errors that err joins, or err alone, or none.
func flatten(err error) []error {
	var many interface{ Unwrap() []error }
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &many):
		return []error{err}
	}
	var all []error
	for _, e := range many.Unwrap() {
		all = append(all, flatten(e)...)
	}
	return all
}

// mismatch says that v is of the wrong type.
func mismatch(want string, v any) string {
	text := "want " + want + ", not " + kindOf(v)
	switch v.(type) {
	case int64, float64, bool:
		if want == "a string" {
			text += "; put it in quotes"
		}
	case string:
		if want == "true or false" || want == "a whole number" {
			text += "; leave out the quotes"
		}
	}
	return text
}

// kindOf names the TOML type of v. It never shows v, which may be a secret.
func kindOf(v any) string {
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
	case map[string]any:
		return "a table"
	case []map[string]any:
		return "an array of tables"
	default:
		return "a date"
	}
}

// unknownKey says that a key is unknown and, if one of the known names is
// close to it, which one may be meant.
func unknownKey(name string, known []string) string {
	if s := closest(name, known); s != "" {
		return "unknown key; did you mean " + s + "?"
	}
	return "unknown key; kilntainers.example.toml names all there are"
}

// closest returns the name that s is most likely a slip of, or "".
func closest(s string, names []string) string {
	s = strings.ToLower(strings.ReplaceAll(s, "-", "_"))
	best, least := "", min(3, 1+len(s)/2)
	for _, name := range slices.Sorted(slices.Values(names)) {
		d := least
		switch {
		case len(s) > 2 && strings.HasPrefix(name, s):
			d = 1
		case len(s) < len(name)+least && len(name) < len(s)+least:
			d = distance(s, name)
		}
		if d < least {
			best, least = name, d
		}
	}
	return best
}

// distance counts the letters to insert, delete, replace or swap with their
// neighbour to get from a to b.
func distance(a, b string) int {
	var before, row []int // of the table of distances between prefixes
	next := make([]int, len(b)+1)
	for j := range next {
		next[j] = j
	}
	for i := range len(a) {
		before, row, next = row, next, make([]int, len(b)+1)
		next[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			next[j+1] = min(row[j]+cost, row[j+1]+1, next[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				next[j+1] = min(next[j+1], before[j-1]+1)
			}
		}
	}
	return next[len(b)]
}

// list writes names as in a sentence: "a, b and c".
func list(names []string, and string) string {
	if n := len(names) - 1; n > 0 {
		return strings.Join(names[:n], ", ") + " " + and + " " + names[n]
	}
	return strings.Join(names, "")
}

// quote puts each name in quotes.
func quote(names []string) []string {
	quoted := make([]string, len(names))
	for i, s := range names {
		quoted[i] = strconv.Quote(s)
	}
	return quoted
}
