"""What people see: terminal views and pages. No number is made here that a result does not hold."""
