// Command reelway runs all of Reelway in one process, or speaks to one.
package main

import (
	"os"

	"reelway.dev/services/reelway"
)

func main() { os.Exit(reelway.Main(os.Args[1:], os.Stdout, os.Stderr)) }
