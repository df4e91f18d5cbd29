package main

import (
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// The parts of SPDX 2.3 that are written here.
// Source: https://spdx.github.io/spdx-spec/v2.3/
type (
	spdxDocument struct {
		Version      string             `json:"spdxVersion"`
		License      string             `json:"dataLicense"`
		ID           string             `json:"SPDXID"`
		Name         string             `json:"name"`
		Namespace    string             `json:"documentNamespace"`
		Creation     spdxCreation       `json:"creationInfo"`
		Packages     []spdxPackage      `json:"packages"`
		Relationship []spdxRelationship `json:"relationships"`
	}
	spdxCreation struct {
		Created  string   `json:"created"`
		Creators []string `json:"creators"`
	}
	spdxPackage struct {
		ID       string    `json:"SPDXID"`
		Name     string    `json:"name"`
		Version  string    `json:"versionInfo,omitempty"`
		Location string    `json:"downloadLocation"`
		Analyzed bool      `json:"filesAnalyzed"`
		Comment  string    `json:"comment,omitempty"`
		Refs     []spdxRef `json:"externalRefs,omitempty"`
	}
	spdxRef struct {
		Category string `json:"referenceCategory"`
		Type     string `json:"referenceType"`
		Locator  string `json:"referenceLocator"`
	}
	spdxRelationship struct {
		Element string `json:"spdxElementId"`
		Type    string `json:"relationshipType"`
		Related string `json:"relatedSpdxElement"`
	}
)

// spdx writes what a binary was linked from, by its own build information, as
// the SBOM of the image with that digest.
func spdx(b build, digest string, info *buildinfo.BuildInfo) ([]byte, error) {
	const none = "NOASSERTION"
	doc := spdxDocument{
		Version: "SPDX-2.3", License: "CC0-1.0", ID: "SPDXRef-DOCUMENT", Name: "reelway-" + b.service,
		Namespace: "https://reelway.dev/spdx/" + b.service + "/" + digest,
		Creation:  spdxCreation{b.time.Format(time.RFC3339), []string{"Tool: reelway-tools-images"}},
		Packages:  []spdxPackage{{ID: "SPDXRef-image", Name: "reelway-" + b.service, Version: b.version, Location: none}},
		Relationship: []spdxRelationship{
			{"SPDXRef-DOCUMENT", "DESCRIBES", "SPDXRef-image"},
		},
	}
	add := func(p spdxPackage) {
		p.ID, p.Location = fmt.Sprintf("SPDXRef-module-%d", len(doc.Packages)), none
		doc.Packages = append(doc.Packages, p)
		doc.Relationship = append(doc.Relationship, spdxRelationship{"SPDXRef-image", "CONTAINS", p.ID})
	}
	purl := func(path, version string) []spdxRef {
		return []spdxRef{{"PACKAGE-MANAGER", "purl", "pkg:golang/" + path + "@" + version}}
	}
	toolchain := strings.TrimPrefix(info.GoVersion, "go")
	add(spdxPackage{Name: "stdlib", Version: toolchain, Refs: purl("stdlib", toolchain)})
	for _, m := range info.Deps {
		if m.Replace != nil { // a sibling in this repository
			add(spdxPackage{Name: m.Path, Version: b.version})
			continue
		}
		// The sum is of a list of files, which is no checksum by SPDX's terms.
		add(spdxPackage{Name: m.Path, Version: m.Version, Refs: purl(m.Path, m.Version), Comment: "go.sum " + m.Sum})
	}
	return json.MarshalIndent(doc, "", " ")
}
