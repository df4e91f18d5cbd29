// Command monitoring writes Grafana's dashboards of Reelway into
// deploy/k8s/components/monitoring/dashboards. Its tests prove them and the rules
// of Prometheus beside them: that both are about metrics which Reelway exports,
// and that each alert fires when it should and leads to a runbook.
//
// With -pictures it draws them instead, as SVG, of what a running stack shows.
//
// Usage: go run . [-out directory] [-pictures directory [-scrape URL] [-for span] [-data directory]]
package main
