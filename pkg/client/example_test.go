package client_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"testing"

	"reelway.dev/pkg/client"
	"reelway.dev/pkg/fault"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// The examples need a Reelway: test/client_test.go starts one and names it by
// these. Without them the other tests run alone.
var (
	server = os.Getenv("REELWAY_SERVER")
	key    = os.Getenv("REELWAY_API_KEY")
)

func TestMain(m *testing.M) {
	flag.Parse()
	if server == "" {
		if err := flag.Set("test.skip", "^Example"); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

func ExampleClient_CreateAndWait() {
	c, err := client.Open(client.Config{Addr: server, Key: key})
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	ctx := context.Background()
	v, err := c.CreateAndWait(ctx, &videov1.CreateVideoRequest{
		Video: &videov1.VideoRequest{Model: "seedance-2.0", Prompt: "a lighthouse in fog", DurationSeconds: 5},
		// The same key is the same job, also when this program dies and asks again.
		IdempotencyKey: "order 4711",
	}, func(v *videov1.Video) { log.Println(v.GetState(), v.GetProgress(), "%") })
	var ended *client.EndedError
	switch {
	case errors.As(err, &ended):
		log.Fatal("no video, and no charge: ", ended)
	case err != nil:
		log.Fatal(err)
	}
	file, err := c.Content(ctx, &videov1.GetVideoContentRequest{Id: v.GetId()})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(v.GetState(), v.GetArtifact().GetContentType(), file.GetUrl() != "")
	// Output: VIDEO_STATE_SUCCEEDED video/mp4 true
}

func ExampleClient_Watch() {
	c, err := client.Open(client.Config{Addr: server, Key: key})
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	ctx := context.Background()
	v, err := c.Create(ctx, &videov1.CreateVideoRequest{Video: &videov1.VideoRequest{Model: "seedance-2.0", Prompt: "a lighthouse in fog"}})
	if err != nil {
		log.Fatal(err)
	}
	var last *videov1.Video
	for m, err := range c.Watch(ctx, &videov1.WatchVideoRequest{Id: v.GetId()}) {
		if err != nil {
			log.Fatal(err)
		}
		last = m.GetVideo() // keep m.GetCursor() to go on from here another time
	}
	fmt.Println(last.GetState())
	// Output: VIDEO_STATE_SUCCEEDED
}

func ExampleClient_WatchMany() {
	c, err := client.Open(client.Config{Addr: server, Key: key})
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	ctx := context.Background()
	v, err := c.Create(ctx, &videov1.CreateVideoRequest{Video: &videov1.VideoRequest{Model: "seedance-2.0", Prompt: "a lighthouse in fog", User: "alice"}})
	if err != nil {
		log.Fatal(err)
	}
	for m, err := range c.WatchMany(ctx, &videov1.WatchVideosRequest{User: "alice"}) {
		if err != nil {
			log.Fatal(err)
		}
		if got := m.GetVideo(); got.GetId() == v.GetId() && client.Final(got) {
			fmt.Println(got.GetUser(), got.GetState())
			break
		}
	}
	// Output: alice VIDEO_STATE_SUCCEEDED
}

func ExampleClient_Quote() {
	c, err := client.Open(client.Config{Addr: server, Key: key})
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_, err = c.Quote(context.Background(), &videov1.VideoRequest{Model: "seedance-2.0", Prompt: "a lighthouse in fog", DurationSeconds: 7000 / 2, Resolution: "9p"})
	var f *fault.Error
	if errors.As(err, &f) {
		for _, field := range f.Fields {
			fmt.Println(f.Code, field.Name, f.Retryable)
		}
	}
	// Unordered output:
	// invalid_request duration false
	// invalid_request resolution false
}

func ExampleClient_List() {
	c, err := client.Open(client.Config{Addr: server, Key: key})
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	for v, err := range c.List(context.Background(), &videov1.ListVideosRequest{User: "nobody"}) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(v.GetId())
	}
	// Output:
}
