package spec

// Schema returns the JSON Schema (draft 2020-12) of manifests, for editors and
// for checks without a server. It is made from the tables that the parser reads
// by; what only the parser can tell (names that are not declared, options that
// contradict each other) is not in it.
func Schema() []byte {
	s := mapOf().
		set("$schema", textOf("https://json-schema.org/draft/2020-12/schema")).
		set("title", textOf("Pheromone app manifest ("+APIVersion+")"))
	s.entries = append(s.entries, appObject.schema().entries...)
	return s.json()
}
