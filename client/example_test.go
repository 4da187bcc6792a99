package client_test

import (
	"context"
	"fmt"
	"log"
	"strings"
	"time"

	"github.com/pheromone-run/pheromone/client"
	"github.com/pheromone-run/pheromone/spec"
)

// Run a function and wait for what it outputs.
func ExampleClient_Invoke() {
	c, err := client.New(client.DefaultURL)
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	result, err := c.Invoke(ctx, "hello", "greet", strings.NewReader("Ada"), client.InvokeOptions{Wait: 10 * time.Second})
	switch spec.CodeOf(err) {
	case "":
		for _, output := range result.Outputs {
			fmt.Printf("%s: %s\n", output.Key, output.Data)
		}
	case spec.CodeTimeout:
		fmt.Println("not done yet; ask later for", result.Session)
	default:
		log.Fatal(err)
	}
}

// Put an object only if nobody has changed it since it was read.
func ExampleClient_Put() {
	c, err := client.New(client.DefaultURL)
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	object, err := c.Get(ctx, "shop", "stock", "apples", client.GetOptions{})
	if err != nil {
		log.Fatal(err)
	}
	_, err = c.Put(ctx, "shop", "stock", "apples", strings.NewReader(string(object.Data)+"1"), client.PutOptions{IfRevision: object.Revision})
	if spec.CodeOf(err) == spec.CodePrecondition {
		fmt.Println("somebody was faster")
	}
}

// Follow a bucket, and go on later from where the program stopped.
func ExampleClient_Watch() {
	c, err := client.New(client.DefaultURL)
	if err != nil {
		log.Fatal(err)
	}
	var position string
	for event, err := range c.Watch(context.Background(), "shop", "orders", client.WatchOptions{From: position}) {
		if err != nil {
			log.Fatal(err) // CodeGone: the position is not kept any more
		}
		fmt.Println(event.Type, event.Object.Key)
		position = event.Position
	}
}

// Deploy an app together with the folder that its functions run from.
func ExamplePack() {
	c, err := client.New(client.DefaultURL)
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	folder, err := client.Pack("./hello", client.PackOptions{})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := c.UploadArtifact(ctx, "hello", folder); err != nil {
		log.Fatal(err)
	}
	manifest := []byte("apiVersion: pheromone/v1\napp: hello\n")
	applied, err := c.Apply(ctx, "hello", manifest, client.ApplyOptions{Artifact: folder.Sum})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("version", applied.Version)
}
