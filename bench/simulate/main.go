// Command simulate predicts what a deployment of Reelway needs for a number of
// jobs a second: a simulation of the pipeline, event by event, with costs of
// single jobs that were measured. -measure measures them on this machine, with
// every service as a process of its own, and compares a prediction with a run.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"time"
)

func main() {
	file := flag.String("costs", "simulate/costs.yaml", "the file of costs")
	measure := flag.Bool("measure", false, "measure the costs, write the file, and compare")
	light := flag.Float64("light", 10, "jobs a second of which costs are taken")
	check := flag.Float64("check", 60, "jobs a second with which the prediction is compared")
	length := flag.Duration("length", 30*time.Second, "length of one run")
	flood := flag.Int("flood", 3000, "jobs that are submitted at once")
	flag.Parse()
	err := fmt.Errorf("unused")
	if dir := os.Getenv(natsIn); dir != "" {
		err = runNATS(dir)
	} else {
		err = simulate(context.Background(), *file, *measure, Plan{Light: *light, Check: *check, Length: *length, Render: 2 * time.Second, Flood: *flood, Large: 16})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}
func simulate(ctx context.Context, file string, measure bool, p Plan) error {
	c := &Costs{}
	m, err := Measure(ctx, p, c)
	if err != nil {
		return err
	}
	fmt.Printf("%+v\n", m)
	return c.write(file)
}
