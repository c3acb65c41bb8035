package mcptest

//lint:file-ignore SA1019 the suite checks sampling, roots and logging, which 2026-07-28 deprecates but older clients use

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// newFixture returns an MCP server that has every tool, prompt and resource
// which the conformance suite calls by name. The daemon offers one tool, so
// most scenarios have nothing to call there; behind the daemon's handler this
// server shows that the handler itself lets all of MCP through.
//
// What each name must do is said in the suite's scenario descriptions.
func newFixture(log *slog.Logger) *mcp.Server {
	s := mcp.NewServer(&mcp.Implementation{Name: "kilntainers-fixture", Version: "1"}, &mcp.ServerOptions{
		Logger: log,
		CompletionHandler: func(context.Context, *mcp.CompleteRequest) (*mcp.CompleteResult, error) {
			return &mcp.CompleteResult{Completion: mcp.CompletionResultDetails{Values: []string{}}}, nil
		},
		SubscribeHandler:   func(context.Context, *mcp.SubscribeRequest) error { return nil },
		UnsubscribeHandler: func(context.Context, *mcp.UnsubscribeRequest) error { return nil },
	})
	addContentTools(s)
	addBehavingTools(s)
	addAskingTools(s)
	addPrompts(s)
	addResources(s)
	return s
}

// A picture of one pixel, and a sound of no samples.
var (
	png = []byte("\x89PNG\r\n\x1a\n" +
		"\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x02\x00\x00\x00\x90wS\xde" +
		"\x00\x00\x00\x0cIDATx\x9cc\xf8\xcf\xc0\x00\x00\x03\x01\x01\x00\xc9\xfe\x92\xef" +
		"\x00\x00\x00\x00IEND\xaeB`\x82")
	wav = []byte("RIFF\x24\x00\x00\x00WAVEfmt \x10\x00\x00\x00\x01\x00\x01\x00" +
		"\x40\x1f\x00\x00\x80\x3e\x00\x00\x02\x00\x10\x00data\x00\x00\x00\x00")
)

func text(format string, args ...any) *mcp.TextContent {
	return &mcp.TextContent{Text: fmt.Sprintf(format, args...)}
}

func resource(uri, mimeType, text string) *mcp.EmbeddedResource {
	return &mcp.EmbeddedResource{Resource: &mcp.ResourceContents{URI: uri, MIMEType: mimeType, Text: text}}
}

// addTool adds a tool whose input schema is an object with these properties,
// written as JSON, all of them required.
func addTool(s *mcp.Server, name, properties string, h mcp.ToolHandler) {
	var names map[string]any
	if err := json.Unmarshal([]byte("{"+properties+"}"), &names); err != nil {
		panic(err)
	}
	required := []string{}
	for n := range names {
		required = append(required, n)
	}
	s.AddTool(&mcp.Tool{
		Name:        name,
		Description: "Fixture for the conformance suite.",
		InputSchema: map[string]any{"type": "object", "properties": names, "required": required},
	}, h)
}

// addContentTools adds the tools that answer at once, with each kind of content.
func addContentTools(s *mcp.Server) {
	for name, content := range map[string][]mcp.Content{
		"test_simple_text":       {text("This is a simple text response for testing.")},
		"test_image_content":     {&mcp.ImageContent{Data: png, MIMEType: "image/png"}},
		"test_audio_content":     {&mcp.AudioContent{Data: wav, MIMEType: "audio/wav"}},
		"test_embedded_resource": {resource("test://embedded-resource", "text/plain", "This is an embedded resource content.")},
		"test_multiple_content_types": {
			text("Multiple content types test:"),
			&mcp.ImageContent{Data: png, MIMEType: "image/png"},
			resource("test://mixed-content-resource", "application/json", `{"test":"data","value":123}`),
		},
	} {
		addTool(s, name, "", func(context.Context, *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			return &mcp.CallToolResult{Content: content}, nil
		})
	}
	addTool(s, "test_error_handling", "", func(context.Context, *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		return &mcp.CallToolResult{IsError: true, Content: []mcp.Content{text("This tool intentionally returns an error for testing")}}, nil
	})

	// Two tools are about their schema alone: a client must see it as written.
	done := func(context.Context, *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		return &mcp.CallToolResult{Content: []mcp.Content{text("done")}}, nil
	}
	addTool(s, "test_custom_header", `"region": {"type": "string", "x-mcp-header": "Region"}`, done)
	s.AddTool(&mcp.Tool{
		Name:        "json_schema_2020_12_tool",
		Description: "Fixture for the conformance suite.",
		InputSchema: json.RawMessage(`{
			"$schema": "https://json-schema.org/draft/2020-12/schema",
			"type": "object",
			"$defs": {"address": {"$anchor": "addressDef", "type": "object", "properties": {"street": {"type": "string"}, "city": {"type": "string"}}}},
			"properties": {
				"name": {"type": "string"},
				"address": {"$ref": "#/$defs/address"},
				"contactMethod": {"type": "string", "enum": ["phone", "email"]},
				"phone": {"type": "string"},
				"email": {"type": "string"}
			},
			"allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
			"if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
			"then": {"required": ["phone"]},
			"else": {"required": ["email"]},
			"additionalProperties": false
		}`),
	}, done)
}

// addBehavingTools adds the tools that do something while they run: log,
// report progress, look at the client's capabilities, change the lists.
func addBehavingTools(s *mcp.Server) {
	const pause = 50 * time.Millisecond // the suite asks for it

	log := func(ctx context.Context, req *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		for i, line := range []string{"Tool execution started", "Tool processing data", "Tool execution completed"} {
			if i > 0 {
				time.Sleep(pause)
			}
			if err := req.Session.Log(ctx, &mcp.LoggingMessageParams{Level: "info", Data: line}); err != nil {
				return nil, err
			}
		}
		return &mcp.CallToolResult{Content: []mcp.Content{text("logged")}}, nil
	}
	addTool(s, "test_tool_with_logging", "", log)
	addTool(s, "test_logging_tool", "", log)

	addTool(s, "test_tool_with_progress", "", func(ctx context.Context, req *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		for _, percent := range []float64{0, 50, 100} {
			if token := req.Params.GetProgressToken(); token != nil {
				err := req.Session.NotifyProgress(ctx, &mcp.ProgressNotificationParams{ProgressToken: token, Progress: percent, Total: 100})
				if err != nil {
					return nil, err
				}
			}
			time.Sleep(pause)
		}
		return &mcp.CallToolResult{Content: []mcp.Content{text("progressed")}}, nil
	})

	// The handler keeps no event store, so an answer whose stream the tool
	// closed is lost, and a client that asks for it later is told so.
	addTool(s, "test_reconnection", "", func(_ context.Context, req *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		if closeStream := req.Extra.CloseSSEStream; closeStream != nil {
			closeStream(mcp.CloseSSEStreamArgs{RetryAfter: pause})
		}
		return &mcp.CallToolResult{Content: []mcp.Content{text("reconnected")}}, nil
	})

	addTool(s, "test_missing_capability", "", func(_ context.Context, req *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		if caps := req.ClientCapabilities(); caps != nil && caps.Sampling != nil {
			return &mcp.CallToolResult{Content: []mcp.Content{text("the client can sample")}}, nil
		}
		data, err := json.Marshal(mcp.MissingRequiredClientCapabilityData{
			RequiredCapabilities: &mcp.ClientCapabilities{Sampling: &mcp.SamplingCapabilities{}},
		})
		if err != nil {
			return nil, err
		}
		return nil, &jsonrpc.Error{Code: mcp.CodeMissingRequiredClientCapabilities, Message: "sampling is required", Data: data}
	})

	// Adding what is there replaces it, and the clients are told.
	addTool(s, "test_trigger_tool_change", "", func(context.Context, *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		addContentTools(s)
		return &mcp.CallToolResult{Content: []mcp.Content{text("changed")}}, nil
	})
	addTool(s, "test_trigger_prompt_change", "", func(context.Context, *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		addPrompts(s)
		return &mcp.CallToolResult{Content: []mcp.Content{text("changed")}}, nil
	})
}

// An asking tool needs input from the client before it can answer: it returns
// requests, and the client calls again with responses. Sessions of older
// revisions never see this; the SDK asks them and calls the handler again.
type asking struct {
	rounds []mcp.InputRequestMap // what it asks for, one after the other
	signed bool                  // whether it hands out a state to bring back
	answer func(mcp.InputResponseMap) (string, bool)
}

// next says what to do with the responses and the state of one call: ask (the
// requests and the state to send), or answer (text).
func (a asking) next(responses mcp.InputResponseMap, state string) (ask mcp.InputRequestMap, newState, text string, err error) {
	round := 0
	if a.signed && state != "" {
		if round, err = checkState(state); err != nil {
			return nil, "", "", err
		}
	}
	complete := true
	for key := range a.rounds[round] {
		complete = complete && responses[key] != nil
	}
	if complete && round == len(a.rounds)-1 {
		if text, ok := a.answer(responses); ok {
			return nil, "", text, nil
		}
	} else if complete {
		round++
	}
	if a.signed {
		newState = signState(round)
	}
	return a.rounds[round], newState, "", nil
}

func (a asking) tool(_ context.Context, req *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
	ask, state, answer, err := a.next(req.Params.InputResponses, req.Params.RequestState)
	if err != nil {
		return nil, err
	}
	if ask != nil {
		return &mcp.CallToolResult{InputRequests: ask, RequestState: state}, nil
	}
	return &mcp.CallToolResult{Content: []mcp.Content{text("%s", answer)}}, nil
}

func (a asking) prompt(_ context.Context, req *mcp.GetPromptRequest) (*mcp.GetPromptResult, error) {
	ask, state, answer, err := a.next(req.Params.InputResponses, req.Params.RequestState)
	if err != nil {
		return nil, err
	}
	if ask != nil {
		return &mcp.GetPromptResult{InputRequests: ask, RequestState: state}, nil
	}
	return userPrompt(text("%s", answer)), nil
}

// The state is the number of the round that was asked, and a MAC of it: a
// client may not choose where to go on.
var stateKey = []byte(rand.Text())

func signState(round int) string {
	mac := hmac.New(sha256.New, stateKey)
	fmt.Fprint(mac, round)
	return fmt.Sprintf("%d.%s", round, hex.EncodeToString(mac.Sum(nil)))
}

func checkState(state string) (round int, err error) {
	if _, err := fmt.Sscanf(state, "%d.", &round); err != nil || !hmac.Equal([]byte(state), []byte(signState(round))) {
		return 0, &jsonrpc.Error{Code: jsonrpc.CodeInvalidParams, Message: "requestState is not one of this server's"}
	}
	return round, nil
}

func askForm(message, properties, required string) *mcp.ElicitParams {
	schema := fmt.Sprintf(`{"type": "object", "properties": {%s}, "required": [%s]}`, properties, required)
	return &mcp.ElicitParams{Mode: "form", Message: message, RequestedSchema: json.RawMessage(schema)}
}

func askModel(prompt string, maxTokens int64) *mcp.CreateMessageParams {
	return &mcp.CreateMessageParams{
		Messages:  []*mcp.SamplingMessage{{Role: "user", Content: text("%s", prompt)}},
		MaxTokens: maxTokens,
	}
}

// field answers with one string that the form of that key must hold.
func field(key, name, format string) func(mcp.InputResponseMap) (string, bool) {
	return func(r mcp.InputResponseMap) (string, bool) {
		form, _ := r[key].(*mcp.ElicitResult)
		if form == nil {
			return "", false
		}
		value, ok := form.Content[name].(string)
		return fmt.Sprintf(format, value), ok
	}
}

// whatever answers with that text and a dump of all responses.
func whatever(said string) func(mcp.InputResponseMap) (string, bool) {
	return func(r mcp.InputResponseMap) (string, bool) {
		dump, err := json.Marshal(r)
		return said + ": " + string(dump), err == nil
	}
}

// addAskingTools adds the tools that need input from the client.
func addAskingTools(s *mcp.Server) {
	name := askForm("What is your name?", `"name": {"type": "string"}`, `"name"`)
	confirm := askForm("Please confirm", `"ok": {"type": "boolean"}`, `"ok"`)
	one := func(key string, r mcp.InputRequest) []mcp.InputRequestMap {
		return []mcp.InputRequestMap{{key: r}}
	}
	for tool, a := range map[string]asking{
		"test_input_required_result_elicitation":    {rounds: one("user_name", name), answer: field("user_name", "name", "Hello, %s!")},
		"test_input_required_result_sampling":       {rounds: one("capital_question", askModel("What is the capital of France?", 100)), answer: whatever("sampled")},
		"test_input_required_result_list_roots":     {rounds: one("client_roots", &mcp.ListRootsParams{}), answer: whatever("roots")},
		"test_input_required_result_request_state":  {rounds: one("confirm", confirm), signed: true, answer: whatever("state-ok")},
		"test_input_required_result_tampered_state": {rounds: one("confirm", confirm), signed: true, answer: whatever("state-ok")},
		"test_input_required_result_multiple_inputs": {
			rounds: []mcp.InputRequestMap{{"user_name": name, "greeting": askModel("Generate a greeting", 50), "client_roots": &mcp.ListRootsParams{}}},
			signed: true,
			answer: whatever("all"),
		},
		"test_input_required_result_multi_round": {
			rounds: []mcp.InputRequestMap{
				{"step1": askForm("Step 1: What is your name?", `"name": {"type": "string"}`, `"name"`)},
				{"step2": askForm("Step 2: What is your favorite color?", `"color": {"type": "string"}`, `"color"`)},
			},
			signed: true,
			answer: field("step2", "color", "Your favorite color is %s."),
		},
		"test_streaming_elicitation": {rounds: one("user_name", name), answer: field("user_name", "name", "Hello, %s!")},
		"test_elicitation_sep1034_defaults": {
			rounds: one("form", askForm("Please review", `
				"name": {"type": "string", "default": "John Doe"},
				"age": {"type": "integer", "default": 30},
				"score": {"type": "number", "default": 95.5},
				"status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
				"verified": {"type": "boolean", "default": true}`, "")),
			answer: whatever("Elicitation completed"),
		},
		"test_elicitation_sep1330_enums": {
			rounds: one("form", askForm("Please choose", `
				"untitledSingle": {"type": "string", "enum": ["option1", "option2", "option3"]},
				"titledSingle": {"type": "string", "oneOf": [{"const": "value1", "title": "First Option"}, {"const": "value2", "title": "Second Option"}, {"const": "value3", "title": "Third Option"}]},
				"legacyEnum": {"type": "string", "enum": ["opt1", "opt2", "opt3"], "enumNames": ["Option One", "Option Two", "Option Three"]},
				"untitledMulti": {"type": "array", "items": {"type": "string", "enum": ["option1", "option2", "option3"]}},
				"titledMulti": {"type": "array", "items": {"anyOf": [{"const": "value1", "title": "First Choice"}, {"const": "value2", "title": "Second Choice"}, {"const": "value3", "title": "Third Choice"}]}}`, "")),
			answer: whatever("Elicitation completed"),
		},
	} {
		addTool(s, tool, "", a.tool)
	}

	// Two of the older scenarios choose the question in an argument.
	argument := func(req *mcp.CallToolRequest, name string) string {
		var args map[string]any
		if json.Unmarshal(req.Params.Arguments, &args) != nil {
			return ""
		}
		value, _ := args[name].(string)
		return value
	}
	addTool(s, "test_sampling", `"prompt": {"type": "string"}`, func(ctx context.Context, req *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		return asking{rounds: one("sample", askModel(argument(req, "prompt"), 100)), answer: whatever("LLM response")}.tool(ctx, req)
	})
	addTool(s, "test_elicitation", `"message": {"type": "string"}`, func(ctx context.Context, req *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		form := askForm(argument(req, "message"), `
			"username": {"type": "string", "description": "User's response"},
			"email": {"type": "string", "description": "User's email address"}`, `"username", "email"`)
		return asking{rounds: one("form", form), answer: whatever("User response")}.tool(ctx, req)
	})
	// And one asks only for what the client says it can do.
	addTool(s, "test_input_required_result_capabilities", "", func(ctx context.Context, req *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		ask := mcp.InputRequestMap{}
		if caps := req.ClientCapabilities(); caps != nil {
			if caps.Sampling != nil {
				ask["greeting"] = askModel("Generate a greeting", 50)
			}
			if caps.Elicitation != nil {
				ask["user_name"] = name
			}
		}
		return asking{rounds: []mcp.InputRequestMap{ask}, answer: whatever("capabilities")}.tool(ctx, req)
	})
}

func userPrompt(content ...mcp.Content) *mcp.GetPromptResult {
	r := &mcp.GetPromptResult{}
	for _, c := range content {
		r.Messages = append(r.Messages, &mcp.PromptMessage{Role: "user", Content: c})
	}
	return r
}

func addPrompts(s *mcp.Server) {
	add := func(name string, h mcp.PromptHandler, args ...string) {
		p := &mcp.Prompt{Name: name, Description: "Fixture for the conformance suite."}
		for _, a := range args {
			p.Arguments = append(p.Arguments, &mcp.PromptArgument{Name: a, Description: "an argument", Required: true})
		}
		s.AddPrompt(p, h)
	}
	add("test_simple_prompt", func(context.Context, *mcp.GetPromptRequest) (*mcp.GetPromptResult, error) {
		return userPrompt(text("This is a simple prompt for testing.")), nil
	})
	add("test_prompt_with_arguments", func(_ context.Context, req *mcp.GetPromptRequest) (*mcp.GetPromptResult, error) {
		a := req.Params.Arguments
		return userPrompt(text("Prompt with arguments: arg1='%s', arg2='%s'", a["arg1"], a["arg2"])), nil
	}, "arg1", "arg2")
	add("test_prompt_with_embedded_resource", func(_ context.Context, req *mcp.GetPromptRequest) (*mcp.GetPromptResult, error) {
		return userPrompt(
			resource(req.Params.Arguments["resourceUri"], "text/plain", "Embedded resource content for testing."),
			text("Please process the embedded resource above."),
		), nil
	}, "resourceUri")
	add("test_prompt_with_image", func(context.Context, *mcp.GetPromptRequest) (*mcp.GetPromptResult, error) {
		return userPrompt(&mcp.ImageContent{Data: png, MIMEType: "image/png"}, text("Please analyze the image above.")), nil
	})
	add("test_input_required_result_prompt", asking{
		rounds: []mcp.InputRequestMap{{"user_context": askForm("What context should the prompt use?", `"context": {"type": "string"}`, `"context"`)}},
		answer: field("user_context", "context", "Use this context: %s"),
	}.prompt)
}

func addResources(s *mcp.Server) {
	add := func(uri, mimeType string, c mcp.ResourceContents) {
		c.URI, c.MIMEType = uri, mimeType
		s.AddResource(&mcp.Resource{URI: uri, Name: uri, Description: "Fixture for the conformance suite.", MIMEType: mimeType},
			func(context.Context, *mcp.ReadResourceRequest) (*mcp.ReadResourceResult, error) {
				return &mcp.ReadResourceResult{Contents: []*mcp.ResourceContents{&c}}, nil
			})
	}
	add("test://static-text", "text/plain", mcp.ResourceContents{Text: "This is the content of the static text resource."})
	add("test://static-binary", "image/png", mcp.ResourceContents{Blob: png})
	add("test://watched-resource", "text/plain", mcp.ResourceContents{Text: "Nothing changes here."})

	s.AddResourceTemplate(&mcp.ResourceTemplate{
		URITemplate: "test://template/{id}/data", Name: "template", Description: "Fixture for the conformance suite.", MIMEType: "application/json",
	}, func(_ context.Context, req *mcp.ReadResourceRequest) (*mcp.ReadResourceResult, error) {
		id, ok := strings.CutSuffix(strings.TrimPrefix(req.Params.URI, "test://template/"), "/data")
		if !ok {
			return nil, mcp.ResourceNotFoundError(req.Params.URI)
		}
		body, err := json.Marshal(map[string]any{"id": id, "templateTest": true, "data": "Data for ID: " + id})
		if err != nil {
			return nil, err
		}
		return &mcp.ReadResourceResult{Contents: []*mcp.ResourceContents{{URI: req.Params.URI, MIMEType: "application/json", Text: string(body)}}}, nil
	})
}
