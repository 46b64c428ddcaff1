// Checks the Dockerfile by Docker's own parser and those rules of its linter that need no image, and the compose file by Compose's own
// loader and schema, on machines that have no Docker. Called by tests/kubernetes/test_containers.py.
//
//	containers dockerfile PATH
//	containers compose PATH
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

func main() {
	if len(os.Args) != 3 {
		fail("usage: containers dockerfile|compose PATH")
	}
	checks := map[string]func(string) error{"dockerfile": dockerfile, "compose": compose}
	check, known := checks[os.Args[1]]
	if !known {
		fail("usage: containers dockerfile|compose PATH")
	}
	if err := check(os.Args[2]); err != nil {
		fail(fmt.Sprintf("%s: %v", os.Args[2], err))
	}
}

func fail(message string) {
	fmt.Fprintln(os.Stderr, message)
	os.Exit(1)
}

// dockerfile parses every instruction; what the linter finds is an error.
func dockerfile(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	parsed, err := parser.Parse(file)
	if err != nil {
		return err
	}
	var found error
	lint := linter.New(&linter.Config{Warn: func(rule, description, _, message string, places []parser.Range) {
		line := 0
		if len(places) > 0 {
			line = places[0].Start.Line
		}
		found = fmt.Errorf("line %d: %s: %s (%s)", line, rule, message, description)
	}})
	stages, _, err := instructions.Parse(parsed.AST, lint)
	if err != nil {
		return err
	}
	for _, stage := range stages {
		fmt.Printf("stage %s from %s: %d instructions\n", stage.Name, stage.BaseName, len(stage.Commands))
	}
	return found
}

// compose loads the file as `docker compose config` does.
func compose(path string) error {
	options, err := cli.NewProjectOptions([]string{path}, cli.WithProfiles([]string{"*"}), cli.WithName("tidemill"))
	if err != nil {
		return err
	}
	project, err := options.LoadProject(context.Background())
	if err != nil {
		return err
	}
	for _, name := range project.ServiceNames() {
		fmt.Printf("service %s: %s\n", name, project.Services[name].Image)
	}
	return nil
}
