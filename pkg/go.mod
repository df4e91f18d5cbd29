module reelway.dev/pkg

go 1.26

require reelway.dev/proto v0.0.0

replace reelway.dev/proto => ../proto
