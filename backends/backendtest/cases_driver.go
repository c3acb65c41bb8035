package backendtest

import (
	"reflect"
	"regexp"
	"strings"

	"github.com/kilntainers/kilntainers/backends"
)

// "Drivers are plain values": the name is one that a profile can write, and
// each decode starts from options of its own. "Options returns a pointer to a
// struct of the driver's own profile keys (toml tags)".
func driverIsAPlainValue(c *probe) {
	d := c.target().Driver
	if !regexp.MustCompile(`^[a-z][a-z0-9_]*$`).MatchString(d.Name) {
		c.Errorf("the name %q is not one for a profile", d.Name)
	}
	a, b := d.Options(), d.Options()
	t := reflect.TypeOf(a)
	if t.Kind() != reflect.Pointer || t.Elem().Kind() != reflect.Struct {
		c.Fatalf("Options returns a %v, want a pointer to a struct", t)
	}
	if a == b && t.Elem().Size() > 0 {
		c.Errorf("Options returned the same value twice: two profiles would share it")
	}
	if !reflect.DeepEqual(a, b) {
		c.Errorf("Options returned different defaults: %+v, %+v", a, b)
	}
	if err := c.options().Validate(); err != nil {
		c.Errorf("the target's own options are not valid: %v", err)
	}
}

// "Describe says in a sentence or two, to a model, what a sandbox of this
// shape is: … network on or off …". The Python original's text named neither
// the network nor the image.
func describeTellsTheModel(c *probe) {
	d := c.target().Driver
	describe := func(network bool) string {
		return d.Describe(c.spec(func(s *backends.Spec) { s.Network = network }), c.options())
	}
	off := describe(false)
	if !strings.Contains(strings.ToLower(off), "network") {
		c.Errorf("it does not mention the network: %q", off)
	}
	if strings.TrimSpace(off) != off {
		c.Errorf("it has blanks around it: %q", off)
	}
	if describe(false) != off {
		c.Errorf("it is not the same the second time")
	}
	if d.Features.Network && describe(true) == off {
		c.Errorf("it is the same with and without network: %q", off)
	}
}

// "Check reports whether Create would work now … It makes no sandbox."
func checkMakesNoSandbox(c *probe) {
	before := len(c.leftovers())
	var err error
	c.within("Check", func() { err = c.backend.Check(c.Context()) })
	if err != nil {
		c.Errorf("got %v, want nil: everything else here works", err)
	}
	if after := c.leftovers(); len(after) != before {
		c.Errorf("Check left something behind: %s", strings.Join(after, ", "))
	}
}
