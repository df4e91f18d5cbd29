package seal_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"reelway.dev/pkg/seal"
)

func TestSeal(t *testing.T) {
	t.Parallel()
	one, two := strings.Repeat("1", 32), strings.Repeat("2", 32)
	keys := func(texts ...string) *seal.Keys {
		k, err := seal.Open(seal.Config{Keys: texts})
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	secret := []byte("whsec_secret")
	a, b := keys(one).Seal(secret, "whe_1"), keys(one).Seal(secret, "whe_1")
	if bytes.Equal(a, b) || bytes.Contains(a, secret) {
		t.Error("two seals of one secret are the same, or show it")
	}
	for name, c := range map[string]struct {
		k     *seal.Keys
		text  []byte
		owner string
		ok    bool
	}{
		"itself":         {keys(one), a, "whe_1", true},
		"rotated":        {keys(two, one), a, "whe_1", true},
		"another key":    {keys(two), a, "whe_1", false},
		"no key":         {keys(), a, "whe_1", false},
		"another owner":  {keys(one), a, "whe_2", false},
		"changed":        {keys(one), append(bytes.Clone(a[:len(a)-1]), a[len(a)-1]^1), "whe_1", false},
		"cut":            {keys(one), a[:8], "whe_1", false},
		"empty":          {keys(one), nil, "whe_1", false},
		"fixed to fixed": {keys(), keys().Seal(secret, "x"), "x", true},
	} {
		got, err := c.k.Open(c.text, c.owner)
		if c.ok && (err != nil || !bytes.Equal(got, secret)) || !c.ok && !errors.Is(err, seal.ErrSealed) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if _, err := seal.Open(seal.Config{Keys: []string{one, "short"}}); err == nil || !strings.Contains(err.Error(), "REELWAY_WEBHOOK_SECRET_KEY") {
		t.Errorf("a short key: %v", err)
	}
}
