// Package modal runs sandboxes at Modal (https://modal.com), with Modal's own
// SDK for Go.
//
//	driver.go   the keys of a profile, and what a model is told
//	secret.go   the token: where it is, and how it stays unsaid
//	client.go   a connection to Modal, and what its errors mean
//	backend.go  makes a sandbox, takes back what failed
//	sandbox.go  one sandbox: its renewal, its death, its removal
//	exec.go     one command; script.go  what runs around it, and what kills it
//	ticket.go   leaves a sandbox to the next daemon, and takes it over
//	sweep.go    what an earlier boot left
//
// The SDK talks to two servers. The control plane makes and ends sandboxes for
// whoever has the token; the worker that a sandbox runs on takes its commands:
//
//	    ┌─ app, image, create, wait, terminate ───────────► api.modal.com
//	SDK ┤
//	    └─ start, stdin, stdout, stderr, wait (a command) ─► the worker
//
// Modal declares the protocol below the SDK private, so nothing but the SDK is
// used here; what the SDK does not do is made up for:
//
//   - It cannot kill a command. All that a command starts has a mark in its
//     environment, and a second command kills what has it, see script.go.
//   - Its own timeouts overrun, and its readers heed no ctx. The ctx given here
//     is the clock; the SDK's timeout only bounds what a dead daemon leaves.
//   - It tells the end of a command's output only when all who hold it have let
//     go. A script around each command writes a line that ends it.
package modal

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/kilntainers/kilntainers/backends"
)

// Driver is the driver "modal".
var Driver = backends.Driver{
	Name: "modal",
	Features: backends.Features{
		Network:    true,
		Background: true,
		Signals:    true,
		Pool:       true,
		Shell:      true,
		Adopt:      true,
	},
	Options:  func() backends.Options { return defaults() },
	Agree:    func(s backends.Spec, _ backends.Options) error { return checkSpec(s) },
	Describe: func(s backends.Spec, o backends.Options) string { return describe(s, o.(*Options)) },
	Open: func(s backends.Spec, o backends.Options, log *slog.Logger) (backends.Backend, error) {
		return open(s, o.(*Options), log), nil
	},
	Sweep: sweep,
}

// Options are the keys of a profile whose backend is "modal".
type Options struct {
	// The token, by value or in files that hold nothing else: absolute paths,
	// or names under $CREDENTIALS_DIRECTORY, read anew when Modal refuses what
	// was read before. When none of them is set, it is $MODAL_TOKEN_ID and
	// $MODAL_TOKEN_SECRET, else the active profile of ~/.modal.toml (or of
	// $MODAL_CONFIG_PATH).
	TokenID         Secret `toml:"modal_token_id"`
	TokenIDFile     string `toml:"modal_token_id_file"`
	TokenSecret     Secret `toml:"modal_token_secret"`
	TokenSecretFile string `toml:"modal_token_secret_file"`

	AppName string `toml:"modal_app_name"` // the app that sandboxes belong to; made when missing

	// What a sandbox gets, and at the same time all it gets: Modal bills the
	// larger of what was asked for and what was used.
	CPU    float64 `toml:"modal_cpu"`    // physical cores
	Memory MiB     `toml:"modal_memory"` //
	GPU    string  `toml:"gpu"`          // "T4", "A100:2"; "" = none
	Region string  `toml:"region"`       // "us-east", "eu"; "" = anywhere

	// Image is an image of a registry, as docker pull takes it; "" is
	// defaultImage. Modal keeps what it pulled once.
	Image string `toml:"image"`

	// Secrets are names of Modal Secrets, whose values become environment
	// variables of every command.
	Secrets []string `toml:"modal_secrets"`

	// SandboxTimeout is after how long Modal ends a sandbox, whatever happens
	// in it. Nothing can lengthen it afterwards.
	SandboxTimeout backends.Duration `toml:"sandbox_timeout"`
}

// defaultImage is what Modal's own default, debian_slim, is made of. That one
// is only known to Modal's SDK for Python.
const defaultImage = "python:3.13-slim-bookworm"

func defaults() *Options {
	return &Options{
		AppName:        "kilntainers",
		CPU:            1,
		Memory:         512,
		SandboxTimeout: backends.Duration(time.Hour),
	}
}

// Modal's limits (https://modal.com/docs/guide/sandbox), and what is so little
// that nothing would start.
const (
	maxCPU     = 256
	minMemory  = 64
	minTimeout = 10 * time.Second
	maxTimeout = 24 * time.Hour
)

var (
	// What the SDK takes as the name of an app or a secret (name_utils.go).
	objectName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

	gpuName    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]*(:[1-9][0-9]?)?$`)
	regionName = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)

	// An image stands in a line of a Dockerfile, so it has no blanks.
	imageName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/:@-]*$`)

	// What Modal takes as the name of a variable (secret.go of the SDK).
	variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
)

// Validate reports every problem that can be found without Modal. It shows no
// secret.
func (o *Options) Validate() error {
	var errs []error
	bad := func(key, format string, a ...any) {
		errs = append(errs, &backends.OptionError{Key: key, Problem: fmt.Sprintf(format, a...)})
	}

	var given [2]bool
	for i, half := range []struct {
		key, file string
		value     Secret
		other     string
	}{
		{"modal_token_id", o.TokenIDFile, o.TokenID, "modal_token_secret"},
		{"modal_token_secret", o.TokenSecretFile, o.TokenSecret, "modal_token_id"},
	} {
		given[i] = half.value != "" || half.file != ""
		if half.value != "" && half.file != "" {
			bad(half.key+"_file", "cannot be used together with %s; remove one of them", half.key)
		}
		if half.value != "" && half.value.check() != nil {
			bad(half.key, "%v; write it as Modal shows it", half.value.check())
		}
		if err := checkFile(half.file); err != nil {
			bad(half.key+"_file", "%v", err)
		}
	}
	switch {
	case given[0] && !given[1]:
		bad("modal_token_secret", "is missing; a token is an id and a secret, so set modal_token_secret_file or modal_token_secret too")
	case given[1] && !given[0]:
		bad("modal_token_id", "is missing; a token is an id and a secret, so set modal_token_id_file or modal_token_id too")
	}
	if !objectName.MatchString(o.AppName) {
		bad("modal_app_name", "%q is not the name of an app; write up to 64 letters, digits, dots, dashes and underscores", o.AppName)
	}
	if !(o.CPU >= 0.001 && o.CPU <= maxCPU) {
		bad("modal_cpu", "%v is out of range; write a number of cores, such as 0.5 or 2", o.CPU)
	}
	if o.Memory < minMemory || o.Memory > math.MaxInt32 {
		bad("modal_memory", "%d is out of range; write MiB from %d on, such as 512", o.Memory, minMemory)
	}
	if o.GPU != "" && !gpuName.MatchString(o.GPU) {
		bad("gpu", "%q is not a GPU; write its name and, if you want more than one, how many: \"T4\", \"A100:2\"", o.GPU)
	}
	if o.Region != "" && !regionName.MatchString(o.Region) {
		bad("region", "%q is not a region; write it as Modal names it, such as \"us-east\" or \"eu\"", o.Region)
	}
	if o.Image != "" && !imageName.MatchString(o.Image) {
		bad("image", "%q is not the name of an image; write it as docker pull takes it, such as \"python:3.13-slim\"", o.Image)
	}
	for _, name := range o.Secrets {
		if !objectName.MatchString(name) {
			bad("modal_secrets", "%q is not the name of a Modal Secret; write it as Modal shows it", name)
		}
	}
	switch d := o.SandboxTimeout.D(); {
	case d%time.Second != 0:
		bad("sandbox_timeout", "%v has a fraction of a second; write whole seconds", d)
	case d < minTimeout, d > maxTimeout:
		bad("sandbox_timeout", "%v is out of range; Modal takes 24 hours (86400) at most, and less than %v is no use",
			o.SandboxTimeout, backends.Duration(minTimeout))
	}
	return errors.Join(errs...)
}

// checkSpec reports what Modal could not set for every command.
func checkSpec(s backends.Spec) error {
	var errs []error
	for name, value := range s.Env {
		if err := checkVariable(name, value); err != nil {
			errs = append(errs, &backends.OptionError{Key: "env", Problem: err.Error()})
		}
	}
	return errors.Join(errs...)
}

// image is the image that sandboxes are made of.
func (o *Options) image() string {
	if o.Image == "" {
		return defaultImage
	}
	return o.Image
}

// describe tells a model what a sandbox is.
func describe(s backends.Spec, o *Options) string {
	var b strings.Builder
	fmt.Fprintf(&b, "An isolated Linux sandbox in the cloud (Modal): a container of the image %s. ", o.image())
	if s.Shell == "" {
		b.WriteString("Commands run in bash if the image has it, else in sh. ")
	} else {
		fmt.Fprintf(&b, "Commands run in %s. ", s.Shell)
	}
	if s.Network {
		b.WriteString("It has network access. ")
	} else {
		b.WriteString("No network access. ")
	}
	cores := "1 CPU"
	if o.CPU != 1 {
		cores = strconv.FormatFloat(o.CPU, 'f', -1, 64) + " CPUs"
	}
	fmt.Fprintf(&b, "Limits: %s, %v of memory", cores, o.Memory)
	if o.GPU != "" {
		kind, n, _ := strings.Cut(o.GPU, ":")
		if n == "" {
			n = "1"
		}
		fmt.Fprintf(&b, ", %s GPU of type %s", n, strings.ToUpper(kind))
	}
	fmt.Fprintf(&b, ". The sandbox ends %v after its start at the latest. ", o.SandboxTimeout.D())
	b.WriteString("Files and background processes stay until then; " +
		"shell variables and the working directory do not carry over from one command to the next.")
	return b.String()
}

// MiB is an amount of memory. In a profile it is a whole number of MiB, as
// Modal counts, or a string with a unit: 512, "512m", "2g".
type MiB int64

// UnmarshalTOML reads a number or a string.
func (m *MiB) UnmarshalTOML(v any) error {
	switch v := v.(type) {
	case int64:
		*m = MiB(v)
		return nil
	case string:
		z, err := backends.ParseSize(v)
		if err != nil {
			return err
		}
		if z%(1<<20) != 0 {
			return fmt.Errorf("%q is not a whole number of MiB; write 512 or \"512m\"", v)
		}
		*m = MiB(z >> 20)
		return nil
	}
	return errors.New("want an amount of memory: MiB (512) or a string (\"2g\")")
}

// String writes the amount with the largest unit that keeps it whole: "512m".
func (m MiB) String() string { return backends.Size(m << 20).String() }
