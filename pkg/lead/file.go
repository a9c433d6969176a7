package lead

import (
	"errors"
	"fmt"

	"go.yaml.in/yaml/v3"
)

// ReadProfiles reads the profiles of a file: a configuration with the section
// leadscoring, that section alone, or nothing but the list. It keeps the lines,
// for the errors of [Compile].
func ReadProfiles(text []byte) ([]Profile, error) {
	var root yaml.Node
	if err := yaml.Unmarshal(text, &root); err != nil {
		return nil, err
	}
	if len(root.Content) == 0 {
		return nil, errors.New("is empty")
	}
	node := root.Content[0]
	for _, key := range []string{"leadscoring", "profiles"} {
		if inner := valueOf(node, key); inner != nil {
			node = inner
		}
	}
	if node.Kind != yaml.SequenceNode {
		return nil, fmt.Errorf("line %d: there are no profiles: must have leadscoring.profiles, profiles, or be a list of them", node.Line)
	}
	var profiles []Profile
	if err := node.Decode(&profiles); err != nil {
		return nil, err
	}
	if len(profiles) == 0 {
		return nil, fmt.Errorf("line %d: there are no profiles", node.Line)
	}
	return profiles, nil
}

func valueOf(node *yaml.Node, key string) *yaml.Node {
	if node.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(node.Content); i += 2 {
		if node.Content[i].Value == key {
			return node.Content[i+1]
		}
	}
	return nil
}
