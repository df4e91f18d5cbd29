// Command monitoring writes Grafana's dashboards of Reelway into
// deploy/k8s/components/monitoring/dashboards. Its tests prove them and the rules
// of Prometheus beside them: that both are about metrics which Reelway exports,
// and that each alert fires when it should and leads to a runbook.
//
// Usage: go run . [-out directory]
package main
