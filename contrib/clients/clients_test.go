// Package clients holds configurations of MCP clients, for people to copy.
// Its test reads each as its client would:
//
//	claude-code.json  {"mcpServers": {"sandbox": {"command": "kilntainers-stdio", …
package clients

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
)

// place is where in its file a client looks for servers by name. Continue has
// a list instead.
var place = map[string]string{
	"claude-code": "mcpServers", "claude-desktop": "mcpServers", "cline": "mcpServers", "codex": "mcp_servers", "continue": "",
	"copilot-cli": "mcpServers", "cursor": "mcpServers", "gemini-cli": "mcpServers", "goose": "extensions", "lm-studio": "mcpServers",
	"opencode": "mcp", "roo-code": "mcpServers", "vscode": "servers", "windsurf": "mcpServers", "zed": "context_servers",
}

var (
	profileName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)
	address     = regexp.MustCompile(`^http://127\.0\.0\.1:8435/mcp/([^/]*)$`)

	// A token is a reference to somewhere else, in each client's own way, or
	// a placeholder that nobody takes for a real one.
	token = regexp.MustCompile(`^Bearer (\$\{(env:)?KILNTAINERS_TOKEN\}|\$KILNTAINERS_TOKEN|\{env:KILNTAINERS_TOKEN\}|\$\{\{ secrets\.KILNTAINERS_TOKEN \}\}|\$\{input:kilntainers-token\}|YOUR_TOKEN)$`)
)

func TestStdio(t *testing.T) {
	for client := range place {
		server := readServer(t, client, client)
		command, _ := server["command"].(string)
		if client == "goose" {
			command, _ = server["cmd"].(string)
		}
		args, _ := server["args"].([]any)
		if all, ok := server["command"].([]any); ok && len(all) > 0 { // opencode
			command, args = fmt.Sprint(all[0]), all[1:]
		}
		if command != "kilntainers-stdio" {
			t.Errorf("%s: the command is %q", client, command)
		}
		if len(args) != 2 || args[0] != "--profile" || !profileName.MatchString(fmt.Sprint(args[1])) {
			t.Errorf("%s: the arguments are %q, want --profile and a profile's name", client, args)
		}
	}
}

func TestHTTP(t *testing.T) {
	for client := range place {
		if client == "claude-desktop" {
			continue // has no such thing in its file
		}
		server := readServer(t, client, client+"-http")
		key := map[string]string{"gemini-cli": "httpUrl", "goose": "uri", "windsurf": "serverUrl"}[client]
		if key == "" {
			key = "url"
		}
		url, _ := server[key].(string)
		if m := address.FindStringSubmatch(url); m == nil || !profileName.MatchString(m[1]) {
			t.Errorf("%s: %s is %q", client, key, url)
		}
		headers, _ := server["headers"].(map[string]any)
		if client == "codex" {
			headers, _ = server["http_headers"].(map[string]any)
			if got := server["bearer_token_env_var"]; got != "KILNTAINERS_TOKEN" {
				t.Errorf("codex: the token comes from %v", got)
			}
		} else if auth, _ := headers["Authorization"].(string); !token.MatchString(auth) {
			t.Errorf("%s: Authorization is %q", client, auth)
		}
		if name, _ := headers["Kilntainers-Sandbox"].(string); name == "" {
			t.Errorf("%s: no Kilntainers-Sandbox in %v", client, headers)
		}
	}
}

// TestREADME: the table names every file, and no other.
func TestREADME(t *testing.T) {
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	named := map[string]bool{}
	for _, m := range regexp.MustCompile(`\[([a-z-]+\.(?:json|toml|yaml))\]\(([^)]*)\)`).FindAllStringSubmatch(string(text), -1) {
		if m[1] != m[2] {
			t.Errorf("the link of %s goes to %s", m[1], m[2])
		}
		named[m[1]] = true
	}
	there := map[string]bool{}
	for _, pattern := range []string{"*.json", "*.toml", "*.yaml"} {
		files, _ := filepath.Glob(pattern)
		for _, f := range files {
			there[f] = true
		}
	}
	if !maps.Equal(named, there) {
		t.Errorf("README.md names %q, there are %q", slices.Sorted(maps.Keys(named)), slices.Sorted(maps.Keys(there)))
	}
	if len(there) != 2*len(place)-1 {
		t.Errorf("%d files for %d clients; is one not in the test's table?", len(there), len(place))
	}
}

// readServer reads a client's file and returns the settings of its server.
func readServer(t *testing.T, client, name string) map[string]any {
	t.Helper()
	files, _ := filepath.Glob(name + ".*")
	if len(files) != 1 {
		t.Errorf("%s: there are %q, want one file", name, files)
		return nil
	}
	text, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	var file map[string]any
	switch filepath.Ext(files[0]) {
	case ".json":
		err = json.Unmarshal(text, &file)
	case ".toml":
		err = toml.Unmarshal(text, &file)
	case ".yaml":
		return yamlLeaves(t, files[0], string(text))
	}
	if err != nil {
		t.Errorf("%s: %v", files[0], err)
		return nil
	}
	servers, _ := file[place[client]].(map[string]any)
	server, _ := servers["sandbox"].(map[string]any)
	if server == nil {
		t.Errorf("%s: no %s.sandbox", files[0], place[client])
	}
	return server
}

// yamlLeaves reads the little YAML there is in these files: one key a line,
// with a plain value, or one that is JSON as well. Headers come as a map.
func yamlLeaves(t *testing.T, file, text string) map[string]any {
	t.Helper()
	leaves, headers := map[string]any{}, map[string]any{}
	line := regexp.MustCompile(`^ *(?:- )?([A-Za-z-]+):(?: (.+))?$`)
	for l := range strings.Lines(text) {
		m := line.FindStringSubmatch(strings.TrimSuffix(l, "\n"))
		if m == nil {
			t.Errorf("%s: this test cannot read the line %q", file, l)
			continue
		}
		var value any = m[2]
		if strings.HasPrefix(m[2], "[") || strings.HasPrefix(m[2], "{") {
			if err := json.Unmarshal([]byte(m[2]), &value); err != nil {
				t.Errorf("%s: %q: %v", file, l, err)
			}
		}
		if m[1] == "Authorization" || m[1] == "Kilntainers-Sandbox" {
			headers[m[1]] = value
		} else if m[2] != "" {
			leaves[m[1]] = value
		}
	}
	leaves["headers"] = headers
	return leaves
}
