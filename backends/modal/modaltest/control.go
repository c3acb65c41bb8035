//go:build linux

package modaltest

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	pb "github.com/modal-labs/modal-client/go/proto/modal_proto"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// control is the control plane: apps, images and sandboxes.
type control struct {
	pb.UnimplementedModalClientServer
	s *Server
}

// A box is a sandbox: a directory, and the processes that were started in it.
type box struct {
	s          *Server
	id, app    string
	image      string
	definition *pb.Sandbox
	tags       map[string]string
	env        map[string]string
	dir        string
	created    time.Time
	life       *time.Timer
	ended      chan struct{}

	mu        sync.Mutex // held while a process starts, so that end misses none
	result    *pb.GenericResult
	processes map[string]*process // by exec id
}

func (b *box) living() bool {
	select {
	case <-b.ended:
		return false
	default:
		return true
	}
}

// end ends a box and all that runs in it.
func (b *box) end(why pb.GenericResult_GenericStatus) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.result != nil {
		return
	}
	b.result = pb.GenericResult_builder{Status: why, Exitcode: 137}.Build()
	b.life.Stop()
	killMarked(b.word())
	for _, p := range b.processes {
		p.abandon()
	}
	os.RemoveAll(b.dir)
	close(b.ended)
}

func (*control) AuthTokenGet(context.Context, *pb.AuthTokenGetRequest) (*pb.AuthTokenGetResponse, error) {
	return pb.AuthTokenGetResponse_builder{Token: accountToken()}.Build(), nil
}

func (c *control) AppGetOrCreate(_ context.Context, r *pb.AppGetOrCreateRequest) (*pb.AppGetOrCreateResponse, error) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	id := "ap-" + r.GetAppName()
	if r.GetObjectCreationType() == pb.ObjectCreationType_OBJECT_CREATION_TYPE_CREATE_IF_MISSING {
		c.s.apps[id] = true
	}
	if !c.s.apps[id] {
		return nil, status.Errorf(codes.NotFound, "no app %s", r.GetAppName())
	}
	return pb.AppGetOrCreateResponse_builder{AppId: id}.Build(), nil
}

func (*control) EnvironmentGetOrCreate(context.Context, *pb.EnvironmentGetOrCreateRequest) (*pb.EnvironmentGetOrCreateResponse, error) {
	return pb.EnvironmentGetOrCreateResponse_builder{
		EnvironmentId: "en-main",
		Metadata: pb.EnvironmentMetadata_builder{
			Name:     "main",
			Settings: pb.EnvironmentSettings_builder{ImageBuilderVersion: "2025.06"}.Build(),
		}.Build(),
	}.Build(), nil
}

// SecretGetOrCreate knows every secret whose name does not begin with "no-".
func (*control) SecretGetOrCreate(_ context.Context, r *pb.SecretGetOrCreateRequest) (*pb.SecretGetOrCreateResponse, error) {
	if strings.HasPrefix(r.GetDeploymentName(), "no-") {
		return nil, status.Errorf(codes.NotFound, "no secret %s", r.GetDeploymentName())
	}
	return pb.SecretGetOrCreateResponse_builder{SecretId: "st-" + r.GetDeploymentName()}.Build(), nil
}

// ImageGetOrCreate has the base image's name in the id of every layer. It never
// has an image yet, so that the client follows the build.
func (c *control) ImageGetOrCreate(_ context.Context, r *pb.ImageGetOrCreateRequest) (*pb.ImageGetOrCreateResponse, error) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	name := strings.TrimPrefix(r.GetImage().GetDockerfileCommands()[0], "FROM ")
	if base := r.GetImage().GetBaseImages(); len(base) > 0 {
		name = strings.TrimPrefix(base[0].GetImageId(), "im-")
	}
	c.s.building++
	c.s.mostBuilt = max(c.s.mostBuilt, c.s.building)
	return pb.ImageGetOrCreateResponse_builder{ImageId: "im-" + name}.Build(), nil
}

func (c *control) ImageJoinStreaming(r *pb.ImageJoinStreamingRequest, st grpc.ServerStreamingServer[pb.ImageJoinStreamingResponse]) error {
	time.Sleep(time.Millisecond) // a build takes its time
	c.s.mu.Lock()
	c.s.building--
	missing := c.s.missing[strings.TrimPrefix(r.GetImageId(), "im-")]
	c.s.mu.Unlock()
	result := pb.GenericResult_builder{Status: pb.GenericResult_GENERIC_STATUS_SUCCESS}
	if missing {
		result = pb.GenericResult_builder{Status: pb.GenericResult_GENERIC_STATUS_FAILURE, Exception: "manifest unknown"}
	}
	return st.Send(pb.ImageJoinStreamingResponse_builder{EntryId: "1", Result: result.Build()}.Build())
}

// create makes a box, or returns the one that the same call has made already.
func (s *Server) create(ctx context.Context, app string, d *pb.Sandbox, tags []*pb.SandboxTag, sources []*pb.SecretSource, version int) (*box, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	md, _ := metadata.FromIncomingContext(ctx)
	key := strings.Join(md.Get("x-idempotency-key"), "")
	if b := s.made[key]; b != nil && key != "" {
		return b, nil
	}
	if !s.apps[app] {
		return nil, status.Errorf(codes.NotFound, "no app %s", app)
	}
	dir, err := os.MkdirTemp("", "modaltest-")
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	b := &box{
		s: s, app: app, dir: dir, definition: d,
		image:     strings.TrimPrefix(d.GetImageId(), "im-"),
		tags:      map[string]string{},
		env:       map[string]string{},
		created:   time.Now(),
		ended:     make(chan struct{}),
		processes: map[string]*process{},
	}
	// 22 letters and digits after the dash are what the SDK knows the older
	// kind of sandbox by, the only kind that has GPUs.
	b.id = "sb-" + word()[:22]
	if version == 2 {
		b.id = "sb-v2" + word()
	}
	for _, t := range tags {
		b.tags[t.GetTagName()] = t.GetTagValue()
	}
	for _, e := range sources {
		for k, v := range e.GetEnv().GetContents() {
			b.env[k] = v
		}
	}
	for _, id := range d.GetSecretIds() {
		b.env[strings.ToUpper(strings.TrimPrefix(id, "st-"))] = "the value of " + id
	}
	b.life = time.AfterFunc(time.Duration(d.GetTimeoutSecs())*time.Second, func() { b.end(pb.GenericResult_GENERIC_STATUS_TIMEOUT) })
	s.boxes[b.id] = b
	s.made[key] = b
	return b, nil
}

func (c *control) SandboxCreateV2(ctx context.Context, r *pb.SandboxCreateV2Request) (*pb.SandboxCreateV2Response, error) {
	if gpu := r.GetDefinition().GetResources().GetGpuConfig().GetGpuType(); gpu != "" {
		return nil, status.Errorf(codes.InvalidArgument, "no GPU %s here", gpu)
	}
	b, err := c.s.create(ctx, r.GetAppId(), r.GetDefinition(), r.GetTags(), r.GetSecretSources(), 2)
	if err != nil {
		return nil, err
	}
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	return pb.SandboxCreateV2Response_builder{
		SandboxId:           b.id,
		TaskId:              b.task(),
		CommandRouterAccess: pb.CommandRouterAccess_builder{Jwt: c.s.workerToken(), Url: c.s.workerURL()}.Build(),
	}.Build(), nil
}

func (c *control) SandboxCreate(ctx context.Context, r *pb.SandboxCreateRequest) (*pb.SandboxCreateResponse, error) {
	b, err := c.s.create(ctx, r.GetAppId(), r.GetDefinition(), r.GetTags(), nil, 1)
	if err != nil {
		return nil, err
	}
	return pb.SandboxCreateResponse_builder{SandboxId: b.id}.Build(), nil
}

func (b *box) task() string { return "ta-" + b.id }

// workerURL is where commands go. It must say https; for a server on this
// machine the SDK does without TLS all the same.
func (s *Server) workerURL() string { return "https" + strings.TrimPrefix(s.URL, "http") }

func (s *Server) box(id string) (*box, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := s.boxes[id]; b != nil {
		return b, nil
	}
	return nil, status.Errorf(codes.NotFound, "no sandbox %s", id)
}

func (c *control) SandboxGetTaskId(_ context.Context, r *pb.SandboxGetTaskIdRequest) (*pb.SandboxGetTaskIdResponse, error) {
	b, err := c.s.box(r.GetSandboxId())
	if err != nil {
		return nil, err
	}
	c.s.mu.Lock()
	waits := c.s.noGPU && b.definition.GetResources().GetGpuConfig().GetGpuType() != ""
	c.s.mu.Unlock()
	switch {
	case !b.living():
		return pb.SandboxGetTaskIdResponse_builder{TaskResult: b.result}.Build(), nil
	case waits:
		return &pb.SandboxGetTaskIdResponse{}, nil
	}
	return pb.SandboxGetTaskIdResponse_builder{TaskId: proto.String(b.task())}.Build(), nil
}

func (c *control) SandboxGetTaskIdV2(ctx context.Context, r *pb.SandboxGetTaskIdRequest) (*pb.SandboxGetTaskIdResponse, error) {
	return c.SandboxGetTaskId(ctx, r)
}

func (c *control) SandboxGetCommandRouterAccess(_ context.Context, r *pb.SandboxGetCommandRouterAccessRequest) (*pb.SandboxGetCommandRouterAccessResponse, error) {
	if _, err := c.s.box(r.GetSandboxId()); err != nil {
		return nil, err
	}
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	return pb.SandboxGetCommandRouterAccessResponse_builder{Jwt: c.s.workerToken(), Url: c.s.workerURL()}.Build(), nil
}

func (c *control) TaskGetCommandRouterAccess(context.Context, *pb.TaskGetCommandRouterAccessRequest) (*pb.TaskGetCommandRouterAccessResponse, error) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	return pb.TaskGetCommandRouterAccessResponse_builder{Jwt: c.s.workerToken(), Url: c.s.workerURL()}.Build(), nil
}

func (c *control) SandboxWait(ctx context.Context, r *pb.SandboxWaitRequest) (*pb.SandboxWaitResponse, error) {
	b, err := c.s.box(r.GetSandboxId())
	if err != nil {
		return nil, err
	}
	wait := time.NewTimer(time.Duration(r.GetTimeout() * float32(time.Second)))
	defer wait.Stop()
	select {
	case <-b.ended:
	default:
		select {
		case <-b.ended:
		case <-wait.C:
			return &pb.SandboxWaitResponse{}, nil
		case <-ctx.Done():
			return nil, status.FromContextError(ctx.Err()).Err()
		}
	}
	return pb.SandboxWaitResponse_builder{Result: b.result}.Build(), nil
}

func (c *control) SandboxWaitV2(ctx context.Context, r *pb.SandboxWaitRequest) (*pb.SandboxWaitResponse, error) {
	return c.SandboxWait(ctx, r)
}

func (c *control) SandboxTerminate(_ context.Context, r *pb.SandboxTerminateRequest) (*pb.SandboxTerminateResponse, error) {
	b, err := c.s.box(r.GetSandboxId())
	if err != nil {
		return nil, err
	}
	b.end(pb.GenericResult_GENERIC_STATUS_TERMINATED)
	return &pb.SandboxTerminateResponse{}, nil
}

func (c *control) SandboxTerminateV2(ctx context.Context, r *pb.SandboxTerminateRequest) (*pb.SandboxTerminateResponse, error) {
	return c.SandboxTerminate(ctx, r)
}

// SandboxListV2 gives two at a time, newest first, so that clients have to
// turn pages.
func (c *control) SandboxListV2(_ context.Context, r *pb.SandboxListRequest) (*pb.SandboxListResponse, error) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	var page []*pb.SandboxInfo
	for _, b := range slices.Backward(c.s.oldestFirst()) {
		created := float64(b.created.UnixNano()) / 1e9
		has := func(t *pb.SandboxTag) bool { return b.tags[t.GetTagName()] == t.GetTagValue() }
		if !b.living() || b.app != r.GetAppId() || r.GetBeforeTimestamp() > 0 && created >= r.GetBeforeTimestamp() ||
			slices.ContainsFunc(r.GetTags(), func(t *pb.SandboxTag) bool { return !has(t) }) {
			continue
		}
		page = append(page, pb.SandboxInfo_builder{Id: b.id, AppId: b.app, CreatedAt: created}.Build())
		if len(page) == 2 {
			break
		}
	}
	return pb.SandboxListResponse_builder{Sandboxes: page}.Build(), nil
}

func (c *control) SandboxTagsGet(_ context.Context, r *pb.SandboxTagsGetRequest) (*pb.SandboxTagsGetResponse, error) {
	b, err := c.s.box(r.GetSandboxId())
	if err != nil {
		return nil, err
	}
	var tags []*pb.SandboxTag
	for k, v := range b.tags {
		tags = append(tags, pb.SandboxTag_builder{TagName: k, TagValue: v}.Build())
	}
	return pb.SandboxTagsGetResponse_builder{Tags: tags}.Build(), nil
}

func (c *control) SandboxTagsGetV2(ctx context.Context, r *pb.SandboxTagsGetRequest) (*pb.SandboxTagsGetResponse, error) {
	return c.SandboxTagsGet(ctx, r)
}

// word is the mark of the box's processes.
func (b *box) word() string { return fmt.Sprintf("%s.%s.", b.s.word, b.id) }
