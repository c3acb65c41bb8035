package main

import (
	"fmt"
	"strings"
)

// The shells complete commands, flags, the words that a flag takes, files, and
// the profiles that the daemon serves at the moment. When there is no daemon,
// or it does not answer within two seconds, there are no profiles to offer.

// listProfiles prints the names of the profiles in service; %s are more
// arguments of kilntainers.
const listProfiles = `timeout 2 kilntainers profiles --json %s2>/dev/null | sed -n 's/^ *"name": "\([a-z0-9_-]*\)",*$/\1/p'`

// bash returns the completions of a program for bash, where "=" is a word of
// its own.
func bash(p program) string {
	var flags, values strings.Builder
	for _, c := range p.commands {
		if c.takesArgs() {
			fmt.Fprintf(&flags, "\t%s) flags='%s' args=1 ;;\n", c.name, bashFlags(p.flags(c)))
		} else if c.help.usage != nil {
			fmt.Fprintf(&flags, "\t%s) flags='%s' ;;\n", c.name, bashFlags(p.flags(c)))
		}
	}
	var valued []string
	seen := map[string]bool{}
	for _, f := range p.allFlags() {
		if f.value == "" || seen[f.name] {
			continue
		}
		seen[f.name] = true
		names := f.name
		if f.short != "" {
			names = f.short + " | " + f.name
		}
		valued = append(valued, names)
		switch f.kind() {
		case "file":
			fmt.Fprintf(&values, "\t%s) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- \"$cur\"); return ;;\n", names)
		case "profile":
			fmt.Fprintf(&values, "\t%s) words=$("+listProfiles+") ;;\n", names, "${socket:+--socket \"$socket\"} ")
		case "choice":
			fmt.Fprintf(&values, "\t%s) words='%s' ;;\n", names, strings.Join(f.choices(), " "))
		default:
			fmt.Fprintf(&values, "\t%s) return ;;\n", names)
		}
	}
	r := strings.NewReplacer(
		"PROGRAM", p.name, "FUNCTION", "_"+strings.ReplaceAll(p.name, "-", "_"),
		"COMMANDS", strings.Join(p.names(), " "), "FLAGS", bashFlags(p.help.list("Flags")),
		"VALUED", strings.Join(valued, " | "), "\tOFCOMMAND\n", flags.String(), "\tOFFLAG\n", values.String(),
	)
	return r.Replace(bashTemplate)
}

func bashFlags(flags []item) string {
	var all []string
	for _, f := range flags {
		if f.short != "" {
			all = append(all, f.short)
		}
		all = append(all, f.name)
	}
	return strings.Join(all, " ")
}

const bashTemplate = `# bash completion of PROGRAM. Made by packaging/gen.

FUNCTION() {
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
	local words='' command='' args='' rest='' flag='' socket='' i
	local commands='COMMANDS' flags='FLAGS'
	# --flag=value is three words here.
	if [[ $cur == = ]]; then
		cur=''
	elif [[ $prev == = && $COMP_CWORD -gt 2 ]]; then
		prev=${COMP_WORDS[COMP_CWORD - 2]}
	fi

	# Which command is it, and does the cursor stand among its arguments?
	for ((i = 1; i < COMP_CWORD; i++)); do
		case ${COMP_WORDS[i]} in
		VALUED)
			flag=${COMP_WORDS[i]}
			[[ ${COMP_WORDS[i + 1]} == = ]] && ((++i))
			((++i))
			[[ $flag == --socket ]] && socket=${COMP_WORDS[i]}
			;;
		-- | [^-]*)
			if [[ -z $command && -n $commands ]]; then command=${COMP_WORDS[i]}; else rest=1; fi
			;;
		esac
	done
	case $command in
	OFCOMMAND
	help) flags='' words=$commands ;;
	esac

	COMPREPLY=()
	[[ -n $args && -n $rest ]] && return # what runs in the sandbox is not here
	case $prev in
	OFFLAG
	*)
		if [[ $cur == -* || -z $commands ]]; then
			words=$flags
		elif [[ -z $command ]]; then
			words=$commands
		fi
		;;
	esac
	mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
}
complete -F FUNCTION PROGRAM
`

// zsh returns the completions of a program for zsh.
func zsh(p program) string {
	var b strings.Builder
	fn := "_" + p.name
	fmt.Fprintf(&b, "#compdef %s\n# zsh completion of %s. Made by packaging/gen.\n\n", p.name, p.name)
	fmt.Fprintf(&b, "%s_profiles() {\n\tlocal socket=${opt_args[--socket]}\n\tlocal -a profiles\n\tprofiles=(${(f)\"$(%s)\"})\n\t_describe profile profiles\n}\n\n",
		fn, fmt.Sprintf(listProfiles, `${socket:+--socket} ${socket:+"$socket"} `))
	fmt.Fprintf(&b, "%s() {\n", fn)
	if len(p.commands) == 0 {
		fmt.Fprintf(&b, "\t_arguments -s -S%s\n}\n\n%s \"$@\"\n", zshFlags(fn, p.help.list("Flags")), fn)
		return b.String()
	}
	b.WriteString("\tlocal state line context\n\tlocal -A opt_args\n\tlocal -a commands\n\tcommands=(\n")
	for _, c := range p.commands {
		fmt.Fprintf(&b, "\t\t%s\n", zshQuote(c.name+":"+c.summary))
	}
	fmt.Fprintf(&b, "\t)\n\t_arguments -C -s -S%s \\\n\t\t'1:command:->command' '*::argument:->argument'\n", zshFlags(fn, p.help.list("Flags")))
	b.WriteString("\tcase $state in\n\tcommand) _describe command commands ;;\n\targument)\n\t\tcase $line[1] in\n\t\thelp) _describe command commands ;;\n")
	for _, c := range p.commands {
		fmt.Fprintf(&b, "\t\t%s) _arguments -s -S%s ;;\n", c.name, zshFlags(fn, p.flags(c)))
	}
	fmt.Fprintf(&b, "\t\tesac\n\t\t;;\n\tesac\n}\n\n%s \"$@\"\n", fn)
	return b.String()
}

// zshFlags writes flags as arguments of _arguments, each in a line.
func zshFlags(fn string, flags []item) string {
	var b strings.Builder
	for _, f := range flags {
		b.WriteString(" \\\n\t\t")
		name, takes := f.name, ""
		if f.value != "" {
			name += "="
			takes = ":" + strings.ToLower(f.value) + ":"
			switch f.kind() {
			case "file":
				takes += "_files"
			case "profile":
				takes += fn + "_profiles"
			case "choice":
				takes += "(" + strings.Join(f.choices(), " ") + ")"
			default:
				takes += " "
			}
		}
		text := zshQuote("[" + strings.NewReplacer("[", `\[`, "]", `\]`, ":", `\:`).Replace(f.brief()) + "]" + takes)
		if f.short != "" {
			short := f.short
			if f.value != "" {
				short += "+"
			}
			fmt.Fprintf(&b, "'(%s %s)'{%s,%s}%s", f.short, f.name, short, name, text)
		} else {
			fmt.Fprintf(&b, "%s%s", name, text)
		}
	}
	return b.String()
}

func zshQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// fish returns the completions of a program for fish.
func fish(p program) string {
	var b strings.Builder
	fn := "__" + strings.ReplaceAll(p.name, "-", "_")
	fmt.Fprintf(&b, "# fish completion of %s. Made by packaging/gen.\n\n", p.name)
	fmt.Fprintf(&b, "function %s_profiles\n\tset -l words (commandline -opc)\n\tif set -l i (contains -i -- --socket $words)\n\t\tset -lx KILNTAINERS_SOCKET $words[(math $i + 1)]\n\tend\n\t%s\nend\n\n",
		fn, fmt.Sprintf(listProfiles, ""))
	fmt.Fprintf(&b, "complete -c %s -f\n", p.name)
	line := func(when string, f item) {
		fmt.Fprintf(&b, "complete -c %s%s -l %s", p.name, when, strings.TrimPrefix(f.name, "--"))
		if f.short != "" {
			fmt.Fprintf(&b, " -s %s", strings.TrimPrefix(f.short, "-"))
		}
		switch {
		case f.kind() == "file":
			b.WriteString(" -r -F")
		case f.kind() == "profile":
			fmt.Fprintf(&b, " -x -a '(%s_profiles)'", fn)
		case f.kind() == "choice":
			fmt.Fprintf(&b, " -x -a '%s'", strings.Join(f.choices(), " "))
		case f.value != "":
			b.WriteString(" -x")
		}
		fmt.Fprintf(&b, " -d %s\n", fishQuote(f.brief()))
	}
	for _, c := range p.commands {
		fmt.Fprintf(&b, "complete -c %s -n __fish_use_subcommand -a %s -d %s\n", p.name, c.name, fishQuote(c.summary))
	}
	for _, f := range p.help.list("Flags") {
		line("", f)
	}
	for _, c := range p.commands {
		for _, f := range without(c.help.list("Flags"), p.help.list("Flags")) {
			line(" -n '__fish_seen_subcommand_from "+c.name+"'", f)
		}
	}
	return b.String()
}

func fishQuote(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
}

// names returns the names of the commands.
func (p program) names() (names []string) {
	for _, c := range p.commands {
		names = append(names, c.name)
	}
	return names
}

// allFlags returns the flags of the program and of all its commands.
func (p program) allFlags() []item {
	all := p.help.list("Flags")
	for _, c := range p.commands {
		all = append(all, c.help.list("Flags")...)
	}
	return all
}
