package applets

import (
	"encoding/json"
	"io"
	"reflect"
	"slices"
	"strings"

	"github.com/itchyny/gojq"
)

// jqKeys remembers in which order objects had their keys. gojq's objects have
// none, but who edits a file with jq wants its keys where they were. So objects
// are printed in the order of one that had the same keys, or most of them, in
// the program or the input; keys that are new come last. What a program itself
// sees (keys_unsorted, to_entries, .[]) is sorted.
type jqKeys struct {
	known  map[string][]string // by the sorted keys
	last   []string            // what was learned last; the next is often the same
	orders [][]string          // the same, the first of them
	rank   map[string]int      // of a key: when it was first seen
}

// maxOrders bounds how many orders are looked through for a similar one.
const maxOrders = 256

func newJQKeys(program *gojq.Query) *jqKeys {
	k := &jqKeys{known: map[string][]string{}, rank: map[string]int{}}
	k.walk(reflect.ValueOf(program))
	return k
}

// walk learns from the objects that a program makes.
func (k *jqKeys) walk(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return
		}
		if o, ok := v.Interface().(*gojq.Object); ok {
			var keys []string
			for _, kv := range o.KeyVals {
				switch {
				case kv.Key != "":
					keys = append(keys, strings.TrimPrefix(kv.Key, "$"))
				case kv.KeyString != nil && kv.KeyString.Queries == nil:
					keys = append(keys, kv.KeyString.Str)
				}
			}
			k.learn(keys)
		}
		k.walk(v.Elem())
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				k.walk(v.Field(i))
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			k.walk(v.Index(i))
		}
	}
}

func (k *jqKeys) learn(keys []string) {
	if len(keys) == 0 || slices.Equal(keys, k.last) {
		return
	}
	k.last = keys
	for _, name := range keys {
		if _, found := k.rank[name]; !found {
			k.rank[name] = len(k.rank)
		}
	}
	id := shapeOf(keys)
	if k.known[id] == nil && len(k.known) < 100*maxOrders {
		k.known[id] = keys
		if len(k.orders) < maxOrders {
			k.orders = append(k.orders, keys)
		}
	}
}

func shapeOf(keys []string) string {
	return strings.Join(slices.Sorted(slices.Values(keys)), "\x00")
}

// names returns the keys of an object as they are to be printed.
func (k *jqKeys) names(m map[string]any) []string {
	l := sortedNames(m)
	if len(l) < 2 {
		return l
	}
	if order := k.known[strings.Join(l, "\x00")]; order != nil {
		return order
	}
	best, most := []string(nil), 0
	for _, order := range k.orders {
		common := 0
		for _, name := range order {
			if _, found := m[name]; found {
				common++
			}
		}
		if common > most {
			best, most = order, common
		}
	}
	place := make(map[string]int, len(l))
	for i, name := range best {
		place[name] = i - len(best) // before all others
	}
	at := func(name string) int {
		if p, found := place[name]; found {
			return p
		}
		if r, found := k.rank[name]; found {
			return r
		}
		return len(k.rank)
	}
	slices.SortStableFunc(l, func(a, b string) int { return at(a) - at(b) })
	return l
}

// read decodes the next value and learns from its objects.
func (k *jqKeys) read(dec *json.Decoder) (any, error) {
	t, err := dec.Token()
	if err != nil {
		return nil, err
	}
	d, isDelim := t.(json.Delim)
	if !isDelim {
		return t, nil
	}
	inner := func() (any, error) {
		v, err := k.read(dec)
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return v, err
	}
	switch d {
	case '[':
		list := []any{}
		for dec.More() {
			v, err := inner()
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		_, err = inner()
		return list, err
	case '{':
		m := map[string]any{}
		var keys []string
		for dec.More() {
			name, err := inner()
			if err != nil {
				return nil, err
			}
			v, err := inner()
			if err != nil {
				return nil, err
			}
			key, _ := name.(string)
			if _, twice := m[key]; !twice {
				keys = append(keys, key)
			}
			m[key] = v
		}
		k.learn(keys)
		_, err = inner()
		return m, err
	}
	return nil, nil // a closing bracket, which the decoder has checked
}
