// Package k8s proves the manifests of deploy/k8s on a real API server. It is a
// module of its own, of tests alone: make test-k8s builds the API server and
// etcd from it, and runs them.
package k8s
