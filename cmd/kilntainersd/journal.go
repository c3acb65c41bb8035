package main

import (
	"context"
	"log/slog"
	"maps"
	"strconv"
	"strings"
	"unicode"

	"github.com/coreos/go-systemd/v22/journal"
)

// journalHandler logs to systemd's journal in its own protocol, so that one
// can ask for what one wants to see:
//
//	journalctl -u kilntainers -p warning KILNTAINERS_PROFILE=python
//
// The message is what a text log would say. Each attribute is a field besides:
// profile is KILNTAINERS_PROFILE, and id in the group call KILNTAINERS_CALL_ID.
type journalHandler struct {
	level  slog.Leveler
	text   slog.Handler      // for what the journal does not take
	fields map[string]string // of the attributes so far; never changed
	said   string            // the same as the message says them
	group  string            // "call." for the group call
}

func newJournalHandler(level slog.Leveler, text slog.Handler) *journalHandler {
	return &journalHandler{level: level, text: text, fields: map[string]string{"SYSLOG_IDENTIFIER": "kilntainersd"}}
}

func (h *journalHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level.Level() }

// Handle sends a record. Where the journal is gone, whoever reads stderr in
// its place gets it.
func (h *journalHandler) Handle(ctx context.Context, r slog.Record) error {
	with := *h
	with.fields = maps.Clone(h.fields)
	r.Attrs(func(a slog.Attr) bool {
		with.add(h.group, a)
		return true
	})
	if err := journal.Send(r.Message+with.said, priority(r.Level), with.fields); err != nil {
		return h.text.Handle(ctx, r)
	}
	return nil
}

func (h *journalHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	with := *h
	with.text = h.text.WithAttrs(attrs)
	with.fields = maps.Clone(h.fields)
	for _, a := range attrs {
		with.add(h.group, a)
	}
	return &with
}

func (h *journalHandler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	with := *h
	with.text = h.text.WithGroup(name)
	with.group += name + "."
	return &with
}

// add takes an attribute into the fields, which are ours alone, and into the
// message.
func (h *journalHandler) add(group string, a slog.Attr) {
	v := a.Value.Resolve()
	if v.Kind() == slog.KindGroup {
		if a.Key != "" {
			group += a.Key + "."
		}
		for _, inner := range v.Group() {
			h.add(group, inner)
		}
		return
	}
	if a.Key == "" && v.Any() == nil {
		return // slog's empty attribute
	}
	name, text := group+a.Key, v.String()
	h.fields[fieldName(name)] = text
	h.said += " " + name + "=" + quoted(text)
}

// fieldName writes a name as the journal wants it: at most 64 bytes of A-Z,
// 0-9 and _.
func fieldName(name string) string {
	field := "KILNTAINERS_" + strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
			return r
		}
		return '_'
	}, name)
	return field[:min(len(field), 64)]
}

// quoted puts a text in quotes if it would not be one word without.
func quoted(text string) string {
	if text == "" || strings.ContainsFunc(text, func(r rune) bool { return r == '"' || r == '=' || unicode.IsSpace(r) || !unicode.IsPrint(r) }) {
		return strconv.Quote(text)
	}
	return text
}

func priority(l slog.Level) journal.Priority {
	switch {
	case l >= slog.LevelError:
		return journal.PriErr
	case l >= slog.LevelWarn:
		return journal.PriWarning
	case l >= slog.LevelInfo:
		return journal.PriInfo
	}
	return journal.PriDebug
}
