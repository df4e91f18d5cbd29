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

	"reelway.dev/bench/stand"
)

func main() {
	file := flag.String("costs", "simulate/costs.yaml", "the file of costs")
	measure := flag.Bool("measure", false, "measure the costs, write the file, and compare a prediction with a run")
	light := flag.Float64("light", 10, "jobs a second of which costs are taken")
	check := flag.Float64("check", 60, "jobs a second with which the prediction is compared")
	length := flag.Duration("length", 30*time.Second, "length of one run")
	flood := flag.Int("flood", 3000, "jobs that are submitted at once")
	flag.Parse()
	var err error
	switch dir := os.Getenv(natsIn); {
	case dir != "":
		err = runNATS(dir)
	case *measure:
		err = compare(context.Background(), *file, Plan{Light: *light, Check: *check, Length: *length, Render: 2 * time.Second, Flood: *flood, Large: 16})
	default:
		err = sizes(*file)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// compare measures, and predicts one of the runs from the others.
func compare(ctx context.Context, file string, p Plan) error {
	c, err := readCosts(file)
	if err != nil {
		return err
	}
	m, err := Measure(ctx, p, c)
	if err != nil {
		return err
	}
	if err := c.write(file); err != nil {
		return err
	}
	return besides(c, m)
}

// besides prints what is predicted for a run beside what was measured in it.
func besides(c *Costs, m *Measured) error {
	o, err := Simulate(c, Traffic{Rate: m.Rate, Render: m.Render.Seconds(), Providers: 1},
		Layout{Ledgers: 1, Shards: 1, Copies: 8, Link: 1000, Commit: 0.0005, OneHost: m.Cores, Sending: 256, Simulate: 120})
	if err != nil {
		return err
	}
	stand.Say("\n%.1f jobs/s on %d cores           measured           predicted\n", m.Rate, m.Cores)
	stand.Say("%-20s %10s %10s %10s %10s\n", "wait in ms", "p50", "p99", "p50", "p99")
	for _, s := range m.Stages {
		w := o.Waits[s.Name]
		stand.Say("%-20s %10.1f %10.1f %10.1f %10.1f\n", s.Name, ms(s.P50), ms(s.P99), 1000*w.At(0.5), 1000*w.At(0.99))
	}
	stand.Say("\n%-20s %10s %10s %10s\n", "computing in ms/s", "measured", "predicted", "ratio")
	var all, said float64
	for _, name := range processes {
		predicted := o.CPU[name]
		all, said = all+m.CPU[name], said+predicted
		stand.Say("%-20s %10.0f %10.0f %10.2f\n", name, m.CPU[name], predicted, predicted/m.CPU[name])
	}
	stand.Say("%-20s %10.0f %10.0f %10.2f\n", "all", all, said, said/all)
	return nil
}
